import type { Peer } from './peer.js'
import { type Entry, MAX_ENTRIES, tooMany } from './registry.js'

/**
 * What members have registered that do not serve for good yet: a joiner, and who serves in probation. It becomes the
 * service's when the handoff cannot be undone any more, and is closed when it fails. Owns the descriptors.
 */
export class Staging {
  readonly #staged = new Map<Peer, Map<string, Entry>>()

  /** Takes ownership, also when it throws; an earlier one of that name is closed. */
  put(peer: Peer, entry: Entry): void {
    const staged = this.#staged.get(peer) ?? new Map<string, Entry>()
    if (staged.size >= MAX_ENTRIES && !staged.has(entry.name)) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    this.#staged.set(peer, staged)
    staged.get(entry.name)?.fd.close()
    staged.set(entry.name, entry)
  }

  /** Still owned here. */
  of(peer: Peer | undefined): Entry[] {
    return peer === undefined ? [] : [...(this.#staged.get(peer)?.values() ?? [])]
  }

  /** The caller owns them. */
  take(peer: Peer): Entry[] {
    const entries = this.of(peer)
    this.#staged.delete(peer)
    return entries
  }

  remove(peer: Peer, name: string): void {
    this.#staged.get(peer)?.get(name)?.fd.close()
    this.#staged.get(peer)?.delete(name)
  }

  drop(peer: Peer): void {
    for (const entry of this.take(peer)) entry.fd.close()
  }

  /** Closes what all others have staged. */
  keepOnly(peers: readonly (Peer | undefined)[]): void {
    for (const peer of [...this.#staged.keys()]) if (!peers.includes(peer)) this.drop(peer)
  }

  close(): void {
    this.keepOnly([])
  }
}
