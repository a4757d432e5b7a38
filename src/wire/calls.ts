import { Pending, type PendingOptions } from './pending.js'

export interface Call<Peer, T> {
  /** From 1; the answer repeats it. */
  readonly number: number
  readonly peer: Peer
  readonly pending: Pending<T>
}

/**
 * The requests to other processes that wait for their answers, by number: the one table of them for commands, questions for a status, upgrades that are
 * passed on, and registrations. A request ends once: by an answer of the peer that was asked, by a failure, its limit or its signal.
 */
export class Calls<Peer, T, Facts extends object = object> {
  readonly #waiting = new Map<number, Call<Peer, T> & Facts>()
  #last = 0

  get size(): number {
    return this.#waiting.size
  }

  /** Opens a call, which is settled already when the signal has aborted. `facts`: what else is known of it. */
  open(
    peer: Peer,
    facts: Facts,
    { onSettled: over = () => {}, ...options }: PendingOptions = {},
  ): Call<Peer, T> & Facts {
    const number = ++this.#last
    const pending = new Pending<T>({
      ...options,
      onSettled: () => {
        this.#waiting.delete(number)
        over()
      },
    })
    const call = { ...facts, number, peer, pending }
    if (!pending.settled) this.#waiting.set(number, call)
    return call
  }

  /** The calls to a peer, or to all, from the oldest on. */
  of(peer?: Peer): (Call<Peer, T> & Facts)[] {
    const all = [...this.#waiting.values()]
    return peer === undefined ? all : all.filter(call => call.peer === peer)
  }

  /** Settles a call with what `read` returns or throws. A peer that repeats no number answers its oldest. */
  answer(peer: Peer, number: number, read: () => T): void {
    const call = number === 0 ? this.of(peer)[0] : this.#waiting.get(number)
    if (call?.peer !== peer) return
    try {
      call.pending.resolve(read())
    } catch (error) {
      call.pending.reject(error)
    }
  }

  /** Rejects the calls to a peer, or to all. */
  fail(why: unknown, peer?: Peer): void {
    for (const { pending } of this.of(peer)) pending.reject(why)
  }
}
