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

/** The waiting requests of one upstream in this process. A reload changes the limits, not the requests. */
export class UpstreamQueue implements RequestQueue {
  most = 0
  ms = 0
  waiting = 0
  readonly servers: () => readonly Destination[]
  readonly ended: RequestQueue['ended']
  readonly #looks = new Set<() => void>()
  #scheduled = false

  constructor(servers: () => readonly Destination[], ended: RequestQueue['ended']) {
    this.servers = servers
    this.ended = ended
  }

  configure({ requests, timeout }: QueueConfig): void {
    this.most = requests
    this.ms = timeout
  }

  watch(look: () => void): () => void {
    this.#looks.add(look)
    return () => this.#looks.delete(look)
  }

  /** Call when {@link servers} may return others, or with other limits: waiting requests look in a later turn, once for all changes of a turn. */
  changed(): void {
    if (this.#scheduled || this.#looks.size === 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      for (const look of [...this.#looks]) look()
    })
  }
}
