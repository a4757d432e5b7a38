import { closeAll } from '../kernel/index.js'
import { isAt, removeUnixPath } from '../listeners/unix-path.js'
import type { BundleItem } from '../wire/bundle.js'
import type { Peer } from './peer.js'
import type { Registry } from './registry.js'

/** More Unix paths than this of one successor are not watched over. */
const MOST = 1_000

/**
 * The Unix paths that a successor has bound for the service, each with its socket: the incumbent removes them when that process has died or left
 * and does not serve. Owns the descriptors.
 */
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
