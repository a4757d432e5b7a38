import type { Peer } from './peer.js'
import { type Entry, MAX_ENTRIES, tooMany } from './registry.js'

/**
 * What members have registered that do not serve for good yet: a joiner, and who serves in probation. It becomes the
 * service's when the handoff cannot be undone any more, and is closed when it fails. Owns the descriptors.
 */
export class ProvisionalEntries {
  readonly #entries = new Map<Peer, Map<string, Entry>>()

  /** Takes ownership, also when it throws; an earlier one of that name is closed. */
  put(peer: Peer, entry: Entry): void {
    const entries = this.#entries.get(peer) ?? new Map<string, Entry>()
    if (entries.size >= MAX_ENTRIES && !entries.has(entry.name)) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    this.#entries.set(peer, entries)
    entries.get(entry.name)?.fd.close()
    entries.set(entry.name, entry)
  }

  /** Still owned here. */
  of(peer: Peer | undefined): Entry[] {
    return peer === undefined ? [] : [...(this.#entries.get(peer)?.values() ?? [])]
  }

  /** The caller owns them. */
  take(peer: Peer): Entry[] {
    const entries = this.of(peer)
    this.#entries.delete(peer)
    return entries
  }

  remove(peer: Peer, name: string): void {
    this.#entries.get(peer)?.get(name)?.fd.close()
    this.#entries.get(peer)?.delete(name)
  }

  drop(peer: Peer): void {
    for (const entry of this.take(peer)) entry.fd.close()
  }

  /** Closes the entries of all others. */
  keepOnly(peers: readonly (Peer | undefined)[]): void {
    for (const peer of [...this.#entries.keys()]) if (!peers.includes(peer)) this.drop(peer)
  }

  close(): void {
    this.keepOnly([])
  }
}
