import { dirname } from 'node:path'
import { watchPaths } from '../kernel/index.js'

/** A folder with paths of Unix listeners that this process watches. */
interface WatchedFolder {
  /** The paths of each guard. */
  readonly paths: Map<PathWatches, readonly string[]>
  watch: Disposable | null
  /** The paths that `watch` has. */
  watched: string
}

/** All guards of a process share the watch of a folder: an inotify instance, of which the kernel allows a user few (128). */
const folders = new Map<string, WatchedFolder>()

/** Watches the paths of the Unix listeners of one guard. */
export class PathWatches implements Disposable {
  readonly #removed: (folder: string) => void
  readonly #folders = new Set<string>()

  /** `removed` is called if a path, or its folder, may have been removed, perhaps one of another guard: then watch the paths again. */
  constructor(removed: (folder: string) => void) {
    this.#removed = removed
  }

  /** Watches these paths, which exist, and no others. Leaves out folders that inotify cannot watch, and throws the error of the first one at the end. */
  watch(paths: readonly string[]): void {
    const wanted = new Map<string, string[]>([...this.#folders].map(folder => [folder, []]))
    for (const path of paths) {
      const others = wanted.get(dirname(path))
      if (others === undefined) wanted.set(dirname(path), [path])
      else others.push(path)
    }
    const errors: unknown[] = []
    for (const [folder, paths] of wanted) {
      try {
        this.#watchIn(folder, paths)
      } catch (error) {
        errors.push(error)
      }
    }
    if (errors.length > 0) throw errors[0]
  }

  #watchIn(folder: string, paths: readonly string[]): void {
    const at = folders.get(folder) ?? { paths: new Map(), watch: null, watched: '' }
    folders.set(folder, at)
    if (paths.length > 0) {
      at.paths.set(this, paths)
      this.#folders.add(folder)
    } else {
      at.paths.delete(this)
      this.#folders.delete(folder)
    }
    const all = [...at.paths.values()].flat()
    const watched = all.join('\0')
    if (at.watch !== null && at.watched === watched) return
    at.watch?.[Symbol.dispose]()
    at.watch = null
    if (all.length === 0) {
      folders.delete(folder)
      return
    }
    at.watched = watched
    at.watch = watchPaths(folder, all, () => {
      at.watch = null
      for (const guard of [...at.paths.keys()]) guard.#removed(folder)
    })
  }

  [Symbol.dispose](): void {
    try {
      this.watch([])
    } catch {
      // The kernel does not watch the paths of the other guards any more: their next check tries again.
    }
  }
}
