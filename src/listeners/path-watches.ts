import { dirname } from 'node:path'
import { watchPaths } from '../kernel/index.js'

/** Watches the paths of Unix listeners: one inotify instance for each folder, because the kernel allows a user few of them (128). */
export class PathWatches implements Disposable {
  readonly #removed: (folder: string) => void
  readonly #folders = new Map<string, { readonly watch: Disposable; readonly paths: string }>()

  /** `removed` is called once if a path, or its folder, may have been removed: then watch the paths again. */
  constructor(removed: (folder: string) => void) {
    this.#removed = removed
  }

  /** Watches these paths, which exist, and no others. Folders that inotify cannot watch are left out. */
  watch(paths: readonly string[]): void {
    const wanted = new Map<string, string[]>()
    for (const path of paths) {
      const folder = dirname(path)
      const others = wanted.get(folder)
      if (others === undefined) wanted.set(folder, [path])
      else others.push(path)
    }
    for (const [folder, { watch, paths }] of this.#folders) {
      if (wanted.get(folder)?.join('\0') === paths) continue
      watch[Symbol.dispose]()
      this.#folders.delete(folder)
    }
    for (const [folder, paths] of wanted) {
      if (this.#folders.has(folder)) continue
      const watch = watchPaths(folder, paths, () => {
        this.#folders.delete(folder)
        this.#removed(folder)
      })
      if (watch !== null) this.#folders.set(folder, { watch, paths: paths.join('\0') })
    }
  }

  [Symbol.dispose](): void {
    this.watch([])
  }
}
