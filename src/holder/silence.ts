import { Wakefulness } from '../os/wakefulness.js'
import type { Peer } from './peer.js'

/** How long processes that beat have been silent, while this one could hear them. */
export class Silence {
  readonly #awake = new Wakefulness()
  readonly #everyMs: number
  #awakeSince = performance.now()

  /** `everyMs`: between two calls of {@link tick}. */
  constructor(everyMs: number) {
    this.#everyMs = everyMs
  }

  tick(): void {
    this.#awakeSince = this.#awake.tick(this.#everyMs)
  }

  /** Milliseconds; 0 of a process that does not beat. */
  of(peer: Pick<Peer, 'beats' | 'beatAt'> | undefined): number {
    if (!peer?.beats) return 0
    return Math.max(0, performance.now() - Math.max(peer.beatAt, this.#awakeSince))
  }
}
