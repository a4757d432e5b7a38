import { isAt, removeUnixPath } from '../listeners/unix-path.js'
import type { Entry, Registry } from './registry.js'

/** Listeners that a version does not ask for any more: their Unix paths go when nobody can come back who would need them. */
export class FormerListeners {
  readonly #entries: Entry[] = []
  /** The paths are not this process's to remove: another user chose them, who may have others lead there. */
  keepPaths = false

  /** What the registry has under this name is given up, or replaced. */
  note(registry: Registry, name: string): void {
    const entry = registry.get(name)
    if (this.keepPaths) return
    if (entry?.role !== 'listener' || !entry.spec.startsWith('unix:')) return
    try {
      this.#entries.push({ ...entry, fd: entry.fd.dup() })
    } catch {
      // No descriptor left: the path stays, and is replaced by whoever binds it next.
    }
  }

  /** The handoff cannot be undone any more. */
  settle(registry: Registry): void {
    for (const { fd, spec } of this.#entries) {
      // The socket may have been given once more, or under another name.
      const kept = registry.entries.some(entry => entry.role === 'listener' && isAt(entry.fd, spec))
      if (!kept) removeUnixPath(fd, spec)
    }
    this.close()
  }

  /** The paths are somebody else's to remove. */
  close(): void {
    for (const { fd } of this.#entries.splice(0)) fd.close()
  }
}

/** The service ends here: so do the paths of all its listeners. */
export function removePaths(registry: Registry): void {
  for (const { role, fd, spec } of registry.entries) if (role === 'listener') removeUnixPath(fd, spec)
}
