import type { Peer } from '../../holder/peer.js'

/** Delays the members' requests that would change the items while the daemon hands these over. */
export class Pause {
  #waiting: (() => void)[] | null = null

  get isOn(): boolean {
    return this.#waiting !== null
  }

  start(): void {
    this.#waiting ??= []
  }

  /** Runs the delayed work in order. */
  end(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = null
    for (const work of waiting) work()
  }

  /** Runs `work` at once, or at the end of the pause unless the peer has left by then. */
  do(peer: Peer, work: () => void): void {
    if (this.#waiting === null) work()
    else this.#waiting.push(() => peer.forgotten || work())
  }
}
