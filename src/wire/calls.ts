import { Pending, type PendingOptions } from './pending.js'

export interface Call<Peer, T> {
  /** Counts from 1; the peer's answer repeats it. */
  readonly number: number
  readonly peer: Peer
  readonly pending: Pending<T>
}

/**
 * The pending requests to other processes, by number: commands, status requests, forwarded upgrades and registrations.
 * A request is settled once: by its peer's answer, a failure, its timeout or its signal.
 */
export class Calls<Peer, T, Context extends object = object> {
  readonly #pending = new Map<number, Call<Peer, T> & Context>()
  #last = 0

  get size(): number {
    return this.#pending.size
  }

  /** Opens a call. If `signal` is already aborted, the returned call is already rejected. */
  open(
    peer: Peer,
    context: Context,
    { onSettled, ...options }: PendingOptions = {},
  ): Call<Peer, T> & Context {
    const number = ++this.#last
    const pending = new Pending<T>({
      ...options,
      onSettled: () => {
        this.#pending.delete(number)
        onSettled?.()
      },
    })
    const call = { ...context, number, peer, pending }
    if (!pending.settled) this.#pending.set(number, call)
    return call
  }

  /** The pending calls to `peer`, or to all peers, oldest first. */
  callsTo(peer?: Peer): (Call<Peer, T> & Context)[] {
    const all = [...this.#pending.values()]
    return peer === undefined ? all : all.filter(call => call.peer === peer)
  }

  /** Settles the call `number` with the result of `read`. Number 0, from a peer that does not number its answers, means the peer's oldest call. */
  answer(peer: Peer, number: number, read: () => T): void {
    const call = number === 0 ? this.callsTo(peer)[0] : this.#pending.get(number)
    if (call?.peer !== peer) return
    try {
      call.pending.resolve(read())
    } catch (error) {
      call.pending.reject(error)
    }
  }

  /** Rejects the pending calls to `peer`, or to all peers. */
  fail(reason: unknown, peer?: Peer): void {
    for (const { pending } of this.callsTo(peer)) pending.reject(reason)
  }
}
