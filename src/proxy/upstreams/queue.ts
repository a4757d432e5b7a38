/** Requests that wait while all servers are at their limit: the key `queue` of an upstream. */
import { optional, required, shortFor } from '../../checks/shape.js'
import { type Checked, duration, integer, orOff } from '../../checks/values.js'
import type { Destination, RequestQueue } from '../../relay/index.js'

export const queueShape = {
  requests: required(integer(1, 1_000_000), 'how many requests wait in each process; further ones get 503'),
  timeout: optional(duration(1), '10s', 'how long a request waits; then it gets 503'),
}

/** `queue: 100` is short for `queue: { requests: 100 }`. */
export const queue = orOff(shortFor('requests', queueShape))
export type QueueConfig = NonNullable<Checked<typeof queue>>

interface QueueServers extends Pick<RequestQueue, 'servers' | 'ended'> {
  readonly taken: NonNullable<RequestQueue['taken']>
  readonly untilDue: () => number | null
}

/** The waiting requests of one upstream in this process. A reload changes the limits, not the requests. */
export class UpstreamQueue implements RequestQueue {
  most = 0
  ms = 0
  waiting = 0
  readonly servers: () => readonly Destination[]
  readonly ended: RequestQueue['ended']
  readonly taken: NonNullable<RequestQueue['taken']>
  readonly #untilDue: () => number | null
  readonly #looks = new Set<() => void>()
  #scheduled = false
  /** Runs while requests wait and a server is out. */
  #due: NodeJS.Timeout | undefined

  /** `untilDue` returns the time in milliseconds until the next server that is out is tried again; null: none is out. */
  constructor({ servers, ended, taken, untilDue }: QueueServers) {
    this.servers = servers
    this.ended = ended
    this.taken = taken
    this.#untilDue = untilDue
  }

  configure({ requests, timeout }: QueueConfig): void {
    this.most = requests
    this.ms = timeout
  }

  watch(look: () => void): () => void {
    this.#looks.add(look)
    this.#awaitDue()
    return () => {
      this.#looks.delete(look)
      if (this.#looks.size === 0) this.#stopAwaiting()
    }
  }

  #awaitDue(): void {
    if (this.#due !== undefined || this.#looks.size === 0) return
    const ms = this.#untilDue()
    if (ms === null) return
    // A timer may fire a part of a millisecond early.
    this.#due = setTimeout(() => {
      this.#stopAwaiting()
      this.changed()
    }, ms + 1).unref()
  }

  #stopAwaiting(): void {
    clearTimeout(this.#due)
    this.#due = undefined
  }

  /** Call when {@link servers} may return others, or with other limits: waiting requests look in a later turn, once for all changes of a turn. */
  changed(): void {
    if (this.#scheduled || this.#looks.size === 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      for (const look of [...this.#looks]) look()
      // Another server may be due first now.
      this.#stopAwaiting()
      this.#awaitDue()
    })
  }
}
