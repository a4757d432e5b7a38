import type { Peer } from '../../holder/peer.js'

/** What members ask for, and is done later: as long as that would change what is handed over. */
export class Pause {
  #waiting: (() => void)[] | null = null

  begin(): void {
    this.#waiting ??= []
  }

  /** Does what waits, in the order in which it was asked for. */
  end(): void {
    const waiting = this.#waiting ?? []
    this.#waiting = null
    for (const work of waiting) work()
  }

  /** At once, or at the end; not for a peer that is gone by then. */
  do(peer: Peer, work: () => void): void {
    if (this.#waiting === null) work()
    else this.#waiting.push(() => peer.over || work())
  }
}
