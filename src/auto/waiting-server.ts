import type net from 'node:net'
import { type Observers, observe, replay } from '../node/observed-events.js'
import { leavePathAtClose } from './path-server.js'

const EVENTS = ['connection', 'secureConnection', 'session'] as const
type RecordedConnection = { readonly event: (typeof EVENTS)[number]; readonly of: NodeJS.EventEmitter }

/** A server that already accepts connections while the library is loaded. Records them until a member takes the server over. */
export class WaitingServer {
  readonly server: net.Server
  readonly #recorded = new Set<RecordedConnection>()
  readonly #stop: () => void

  constructor(server: net.Server) {
    this.server = server
    const observers: Observers = new Map(
      EVENTS.map(event => [event, (of: NodeJS.EventEmitter) => this.#record(event, of)] as const),
    )
    this.#stop = observe(server, observers)
  }

  #record(event: RecordedConnection['event'], of: NodeJS.EventEmitter): void {
    const connection = { event, of }
    this.#recorded.add(connection)
    observe(of, { close: () => this.#recorded.delete(connection) })
  }

  /** A member takes the server over, and removes its path when the service needs it no more. See {@link handOver}. */
  take(add: () => void): void {
    leavePathAtClose(this.server)
    this.handOver(add)
  }

  /** Calls `add`, then replays to the observers that `add` has added each connection that is still open. */
  handOver(add: () => void): void {
    this.#stop()
    add()
    for (const { event, of } of this.#recorded) replay(this.server, event, of)
    this.#recorded.clear()
  }
}
