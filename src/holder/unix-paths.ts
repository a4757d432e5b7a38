import { closeAll } from '../kernel/index.js'
import { isSocketAt, removeUnixPath } from '../listeners/unix-path.js'
import type { BundleItem } from '../wire/bundle.js'
import { type Entry, isEntryItem, type ListenerEntry, parseEntry } from './entry.js'
import type { Peer } from './peer.js'
import type { Registry } from './registry.js'

/** The most Unix paths that are remembered for one successor. */
const MOST = 1_000

/** Remembers the Unix paths that a successor has bound, and removes them if that process ends without having served. Owns descriptors. */
export class SuccessorPaths {
  readonly #registry: Registry
  readonly #listeners = new Map<Peer, Entry[]>()

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /** Owns the descriptors. */
  arrive(peer: Peer, items: readonly BundleItem[]): void {
    const listeners = this.#listeners.get(peer) ?? []
    this.#listeners.set(peer, listeners)
    for (const item of items) {
      const entry = isEntryItem(item) ? parseEntry(item, item.fd) : null
      if (entry !== null && isUnix(entry) && listeners.length < MOST) listeners.push(entry)
      else item.fd.close()
    }
  }

  /** Removes the paths of a peer that has ended or has closed its listeners. */
  forgotten(peer: Peer): void {
    const listeners = this.#listeners.get(peer) ?? []
    this.#listeners.delete(peer)
    discardListeners(listeners, this.#registry)
  }

  /** Leaves the paths in place, because the successor serves. */
  close(): void {
    for (const listeners of this.#listeners.values()) closeAll(listeners.map(({ fd }) => fd))
    this.#listeners.clear()
  }
}

/** Closes listeners that are not used any more. Removes their Unix paths, unless `held` has the same socket under any name. */
export function discardListeners(entries: readonly Entry[], held: Registry): void {
  for (const entry of entries) {
    const { fd } = entry
    if (isUnix(entry)) {
      const { spec } = entry
      const needed = held.entries.some(other => other.role === 'listener' && isSocketAt(other.fd, spec))
      if (!needed) removeUnixPath(fd, spec)
    }
    fd.close()
  }
}

function isUnix(entry: Entry): entry is ListenerEntry {
  return entry.role === 'listener' && entry.spec?.kind === 'unix'
}

/** Listeners that the new version does not use, and whose Unix paths are removed when the standby, which needs them, cannot take over any more. */
export class FormerListeners {
  readonly #entries: Entry[] = []
  /** Set if another user chose the paths: this process must not remove them, because that user may redirect them to other files. */
  keepPaths = false

  /** Records the entry `name`, which the caller is about to drop from the registry or to replace. */
  remember(registry: Registry, name: string): void {
    const entry = registry.get(name)
    if (this.keepPaths || entry === undefined || !isUnix(entry)) return
    try {
      this.#entries.push({ ...entry, fd: entry.fd.dup() })
    } catch {
      // This process has reached its limit of open files. The path is not removed; the next process that binds it replaces it.
    }
  }

  /** Removes the paths that `registry` does not use, because the handoff cannot be rolled back any more. */
  removeUnused(registry: Registry): void {
    discardListeners(this.#entries.splice(0), registry)
  }

  /** Forgets the listeners without removing paths. */
  close(): void {
    for (const { fd } of this.#entries.splice(0)) fd.close()
  }
}

/** Removes the Unix paths of all listeners, because the service ends. */
export function removePaths(registry: Registry): void {
  for (const entry of registry.entries) if (entry.role === 'listener') removeUnixPath(entry.fd, entry.spec)
}
