import { closeAll } from '../kernel/index.js'
import { isAt, removeUnixPath } from '../listeners/unix-path.js'
import type { BundleItem } from '../wire/bundle.js'
import type { Peer } from './peer.js'
import type { Entry, Registry } from './registry.js'

/** More Unix paths than this of one successor are not watched over. */
const MOST = 1_000

/** The Unix paths that a successor has bound: the incumbent removes them if that process ends and does not serve. Owns descriptors. */
export class MadePaths {
  readonly #registry: Registry
  readonly #made = new Map<Peer, BundleItem[]>()

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /** Takes the descriptors. */
  arrive(peer: Peer, items: readonly BundleItem[]): void {
    const made = this.#made.get(peer) ?? []
    this.#made.set(peer, made)
    for (const item of items) {
      if (item.role === 'listener' && item.spec?.startsWith('unix:') && made.length < MOST) made.push(item)
      else item.fd.close()
    }
  }

  /** The peer has ended, or holds nothing any more. */
  forgotten(peer: Peer): void {
    const made = this.#made.get(peer) ?? []
    this.#made.delete(peer)
    discardMade(made, this.#registry)
  }

  /** The paths are the successor's. */
  close(): void {
    for (const made of this.#made.values()) closeAll(made.map(({ fd }) => fd))
    this.#made.clear()
  }
}

/** Closes listeners that a version has made and that never became the service's; those of its paths that `held` does not need go with them. */
export function discardMade(made: readonly Pick<BundleItem, 'role' | 'spec' | 'fd'>[], held: Registry): void {
  for (const { role, spec = '', fd } of made) {
    const needed = () => held.entries.some(entry => entry.role === 'listener' && isAt(entry.fd, spec))
    if (role === 'listener' && spec.startsWith('unix:') && !needed()) removeUnixPath(fd, spec)
    fd.close()
  }
}

/** Listeners that a version does not ask for any more: their Unix paths are removed when no standby that needs them can come back. */
export class FormerListeners {
  readonly #entries: Entry[] = []
  /** The paths are not this process's to remove: another user chose them, who may have others lead there. */
  keepPaths = false

  /** The registry's entry of this name is given up, or replaced. */
  remember(registry: Registry, name: string): void {
    const entry = registry.get(name)
    if (this.keepPaths) return
    if (entry?.role !== 'listener' || !entry.spec.startsWith('unix:')) return
    try {
      this.#entries.push({ ...entry, fd: entry.fd.dup() })
    } catch {
      // No descriptor left: the path stays, and the next process that binds it replaces it.
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

  /** Another process removes the paths. */
  close(): void {
    for (const { fd } of this.#entries.splice(0)) fd.close()
  }
}

/** The service ends here: so do the paths of all its listeners. */
export function removePaths(registry: Registry): void {
  for (const { role, fd, spec } of registry.entries) if (role === 'listener') removeUnixPath(fd, spec)
}
