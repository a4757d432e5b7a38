import type net from 'node:net'
import type { OwnedFd } from '../../kernel/index.js'
import { fdbroker } from '../../proto/connections.js'
import { wipes } from '../../tls13/position-record.js'
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
import type { HttpCarrier } from './http-carrier.js'
import { witnessOf } from './node-socket.js'
import type { Connections } from './open-sockets.js'

const { Application } = fdbroker.connections

type Value = ConnectionValue<fdbroker.connections.Application.$Properties>

/** The connections of a `net.Server` or `tls.Server` whose protocol is the application's own. */
export class NetServerConnections implements MovableConnections<Value> {
  #onMovable: (() => void) | null = null
  #signal: NodeJS.Immediate | undefined
  readonly #sockets: ApplicationSockets
  readonly #open: Connections
  readonly #carrier: HttpCarrier
  #refused = new WeakSet<net.Socket>()
  readonly #failed: (error: unknown) => void
  /** The connections whose hook has thrown: further exceptions are not reported. */
  readonly #faulty = new WeakSet<net.Socket>()

  /** Throws ERR_FDB_OPTION. */
  constructor(deps: SocketDeps) {
    this.#sockets = new ApplicationSockets(deps)
    this.#open = deps.open
    this.#carrier = deps.carrier
    this.#failed = deps.failed
  }

  get protocol(): string {
    return this.secret ? `tls/${this.#sockets.hooks.protocol}` : this.#sockets.hooks.protocol
  }

  get secret(): boolean {
    return this.#carrier.event === 'secureConnection'
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
    for (const socket of this.#open) if (!this.#refused.has(socket) && this.#carrier.carries(socket)) count++
    return count
  }

  /** Returns the kind of a connection, and why it has not left. */
  describeConnection(socket: net.Socket): [kind: string, reason: string] {
    const reason = this.#refused.has(socket) ? 'refused' : (this.#carrier.reasonOf(socket) ?? 'open')
    return [this.#sockets.hooks.protocol, reason]
  }

  readonly #mayMove = (): void => {
    this.#signal ??= setImmediate(() => {
      this.#signal = undefined
      this.#onMovable?.()
    })
  };

  /** Ignores `which`, because only the application's `serialize` knows which connections are idle. */
  *departures(_which: MoveWhich): Generator<Value | null, void, undefined> {
    if (!this.#carrier.mayBegin(this.#mayMove)) return
    for (const socket of [...this.#open]) yield this.#refused.has(socket) ? null : this.#depart(socket)
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): Value {
    const state = decoded(Application.decode, record)
    onlyConnection(fds)
    this.#carrier.check(state.tls)
    return { record, fds, state, ...wipes(state.tls ?? undefined) }
  }

  arrive({ state, fds, wipe }: Value, how: Arrival): Witness {
    const socket = this.#sockets.arrive(fds[0]!, state, how, state.tls)
    wipe?.()
    if (how === 'refused') this.#refused.add(socket)
    return witnessOf(socket)
  }

  #depart(socket: net.Socket): Value | null {
    try {
      const departed = this.#sockets.depart(socket, this.#mayMove)
      if (departed === null) return null
      const { tls, fd } = departed
      const state = { ...departed.record, tls }
      const record = Application.encode(state).finish()
      return { record, fds: [fd], state, ...wipes(tls ?? undefined, record) }
    } catch (error) {
      if (!this.#faulty.has(socket)) this.#failed(error)
      this.#faulty.add(socket)
      return null
    }
  }
}
