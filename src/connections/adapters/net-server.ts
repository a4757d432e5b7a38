import type net from 'node:net'
import type { OwnedFd } from '../../kernel/index.js'
import { fdbroker } from '../../proto/connections.js'
import {
  type Arrival,
  type ConnectionValue,
  decoded,
  type MovableConnections,
  type MoveWhich,
  onlyConnection,
  type Witness,
} from '../movable.js'
import { ApplicationSockets, type SocketDeps } from './application-socket.js'
import { witnessOf } from './node-socket.js'
import type { Connections } from './open-sockets.js'

const { Application } = fdbroker.connections

type Value = ConnectionValue<fdbroker.connections.Application.$Properties>

/** The connections of a `net.Server` whose protocol is the application's own. */
export class NetServerConnections implements MovableConnections<Value> {
  #onMovable: (() => void) | null = null
  readonly #sockets: ApplicationSockets
  readonly #open: Connections
  #refused = new WeakSet<net.Socket>()
  readonly #failed: (error: unknown) => void
  /** The connections whose hook has thrown: further exceptions are not reported. */
  readonly #faulty = new WeakSet<net.Socket>()

  /** Throws ERR_FDB_OPTION. */
  constructor(deps: SocketDeps) {
    this.#sockets = new ApplicationSockets(deps)
    this.#open = deps.open
    this.#failed = deps.failed
  }

  get protocol(): string {
    return this.#sockets.hooks.protocol
  }

  /** This process serves again: connections that one successor refused may be offered to the next one. */
  resume(): void {
    this.#refused = new WeakSet()
    this.#sockets.takeBack()
  }

  get onMovable(): (() => void) | null {
    return this.#onMovable
  }

  set onMovable(listener: (() => void) | null) {
    this.#onMovable = listener
    if (listener === null) this.#sockets.takeBack()
  }

  get movable(): number {
    let count = 0
    for (const socket of this.#open) if (!this.#refused.has(socket)) count++
    return count
  }

  isRefused(socket: net.Socket): boolean {
    return this.#refused.has(socket)
  }

  /** Ignores `which`, because only the application's `serialize` knows which connections are idle. */
  *departures(_which: MoveWhich): Generator<Value, void, undefined> {
    for (const socket of [...this.#open]) {
      if (this.#refused.has(socket)) continue
      const departure = this.#depart(socket)
      if (departure !== null) yield departure
    }
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): Value {
    const state = decoded(Application.decode, record)
    onlyConnection(fds)
    return { record, fds, state }
  }

  arrive({ state, fds }: Value, how: Arrival): Witness {
    const socket = this.#sockets.arrive(fds[0]!, state, how)
    if (how === 'refused') this.#refused.add(socket)
    return witnessOf(socket)
  }

  #depart(socket: net.Socket): Value | null {
    try {
      const departed = this.#sockets.depart(socket)
      if (departed === null) return null
      const { record: state, fd } = departed
      return { record: Application.encode(state).finish(), fds: [fd], state }
    } catch (error) {
      if (!this.#faulty.has(socket)) this.#failed(error)
      this.#faulty.add(socket)
      return null
    }
  }
}
