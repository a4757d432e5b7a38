import type net from 'node:net'

const EVENTS = ['connection', 'secureConnection', 'session'] as const
type RecordedConnection = { readonly event: (typeof EVENTS)[number]; readonly of: NodeJS.EventEmitter }

/** A server that already accepts connections while the library is loaded. Records them until a member takes the server over. */
export class WaitingServer {
  readonly server: net.Server
  readonly #recorded = new Set<RecordedConnection>()
  readonly #listeners = EVENTS.map(event => ({
    event,
    record: (of: NodeJS.EventEmitter) => this.#record(event, of),
  }))

  constructor(server: net.Server) {
    this.server = server
    for (const { event, record } of this.#listeners) server.on(event, record)
  }

  #record(event: RecordedConnection['event'], of: NodeJS.EventEmitter): void {
    const connection = { event, of }
    this.#recorded.add(connection)
    of.once('close', () => this.#recorded.delete(connection))
  }

  /** Calls `add`, then calls the event listeners that `add` has added with each connection that is still open. */
  handOver(add: () => void): void {
    const { server } = this
    for (const { event, record } of this.#listeners) server.off(event, record)
    const before = new Map(EVENTS.map(event => [event, new Set(server.listeners(event))]))
    add()
    const added = EVENTS.map(event => ({
      event,
      listeners: server.listeners(event).filter(listener => !before.get(event)!.has(listener)),
    }))
    for (const connection of this.#recorded)
      for (const { event, listeners } of added)
        if (event === connection.event)
          for (const listener of listeners) Reflect.apply(listener, server, [connection.of])
    this.#recorded.clear()
  }
}
