import type net from 'node:net'

const EVENTS = ['connection', 'secureConnection', 'session'] as const
type RecordedConnection = { readonly event: (typeof EVENTS)[number]; readonly of: NodeJS.EventEmitter }

/** A server that listens through Node while the library is loaded. Records connections until a member takes the server. */
export class WaitingServer {
  readonly server: net.Server
  readonly #recorded = new Set<RecordedConnection>()
  readonly #listeners = EVENTS.map(event => ({
    event,
    hear: (of: NodeJS.EventEmitter) => this.#record(event, of),
  }))

  constructor(server: net.Server) {
    this.server = server
    for (const { event, hear } of this.#listeners) server.on(event, hear)
  }

  #record(event: RecordedConnection['event'], of: NodeJS.EventEmitter): void {
    const met = { event, of }
    this.#recorded.add(met)
    of.once('close', () => this.#recorded.delete(met))
  }

  /** Calls `add`, then replays open connections to the event listeners that it has added. */
  handOver(add: () => void): void {
    const { server } = this
    for (const { event, hear } of this.#listeners) server.off(event, hear)
    const before = new Map(EVENTS.map(event => [event, new Set(server.listeners(event))]))
    add()
    const added = EVENTS.map(event => ({
      event,
      listeners: server.listeners(event).filter(listener => !before.get(event)!.has(listener)),
    }))
    for (const met of this.#recorded)
      for (const { event, listeners } of added)
        if (event === met.event) for (const listener of listeners) Reflect.apply(listener, server, [met.of])
    this.#recorded.clear()
  }
}
