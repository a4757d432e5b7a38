import { closeAll } from '../kernel/index.js'
import { isSocketAt, removeUnixPath } from '../listeners/unix-path.js'
import type { BundleItem } from '../wire/bundle.js'
import type { Peer } from './peer.js'
import type { Entry, Registry } from './registry.js'

/** The most Unix paths that are remembered for one successor. */
const MOST = 1_000

/** Remembers the Unix paths that a successor has bound, and removes them if that process ends without having served. Owns descriptors. */
export class SuccessorPaths {
  readonly #registry: Registry
  readonly #listeners = new Map<Peer, BundleItem[]>()

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /** Owns the descriptors. */
  arrive(peer: Peer, items: readonly BundleItem[]): void {
    const listeners = this.#listeners.get(peer) ?? []
    this.#listeners.set(peer, listeners)
    for (const item of items) {
      if (item.role === 'listener' && item.spec?.startsWith('unix:') && listeners.length < MOST)
        listeners.push(item)
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
export function discardListeners(
  listeners: readonly Pick<BundleItem, 'role' | 'spec' | 'fd'>[],
  held: Registry,
): void {
  for (const { role, spec = '', fd } of listeners) {
    const needed = () => held.entries.some(entry => entry.role === 'listener' && isSocketAt(entry.fd, spec))
    if (role === 'listener' && spec.startsWith('unix:') && !needed()) removeUnixPath(fd, spec)
    fd.close()
  }
}

/** Listeners that the new version does not use. Their Unix paths are removed when the standby, which needs them, cannot take over any more. */
export class FormerListeners {
  readonly #entries: Entry[] = []
  /** Set if another user chose the paths: this process must not remove them, because that user may redirect them to other files. */
  keepPaths = false

  /** Records the entry `name`, which the caller is about to drop from the registry or to replace. */
  remember(registry: Registry, name: string): void {
    const entry = registry.get(name)
    if (this.keepPaths || entry?.role !== 'listener' || !entry.spec.startsWith('unix:')) return
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
  for (const { role, fd, spec } of registry.entries) if (role === 'listener') removeUnixPath(fd, spec)
}
