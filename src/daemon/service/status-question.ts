import type { Peer } from '../../holder/peer.js'
import { Pending } from '../../wire/pending.js'

/** A member that does not say so soon is described without its own words. */
const STATUS_MS = 1_000

/** Asks the member that serves for its status: one question at a time, for all who want to know. */
export class StatusQuestion {
  readonly #asked = new Map<Peer, Pending<string>>()

  /** Resolves with null when it does not answer, or with what cannot be read. */
  async ask(peer: Peer): Promise<Record<string, unknown> | null> {
    if (!peer.link.open) return null
    const json = await (this.#asked.get(peer) ?? this.#ask(peer)).answer
    try {
      return json === '' ? null : JSON.parse(json)
    } catch {
      return null
    }
  }

  answered(peer: Peer, json: string): void {
    this.#asked.get(peer)?.resolve(json)
  }

  /** This member is gone. */
  forget(peer: Peer): void {
    this.answered(peer, '')
  }

  #ask(peer: Peer): Pending<string> {
    const pending = new Pending<string>({ over: () => this.#asked.delete(peer) })
    this.#asked.set(peer, pending)
    peer.link.tell({ statusRequest: {} })
    return pending.limit(STATUS_MS, () => pending.resolve(''))
  }
}
