import {
  type Arrival,
  type ConnectionValue,
  closeAll,
  duplicateLent,
  FdbError,
  inspect,
  type MovableConnections,
  type OwnedFd,
} from '../adapter.js'
import { closeOnThrow, isShortage } from '../kernel/index.js'
import { Flow, type FlowEvents, keyOf } from './flow.js'
import { decodeFlow, encodeFlow, type FlowRecord } from './flow-record.js'
import type { FrontTurn } from './front-turn.js'
import type { TimerWheel } from './timer-wheel.js'

/** The part of {@link UdpForward} that moves its flows. */
export interface FlowHost extends FlowEvents {
  readonly listener: string
  /** Whether it reads nothing from clients any more, also if its process serves again. */
  readonly closed: boolean
  /** With those that have moved. */
  readonly flows: Iterable<Flow>
  /** How many flows this process has. */
  readonly connections: number
  readonly turn: FrontTurn
  readonly wheel: Pick<TimerWheel, 'remaining'>
  find(key: string): Flow | undefined
  /** From now on this process has the flow. */
  own(flow: Flow): void
  /** Another process will have the flow. */
  disown(flow: Flow): void
  /** Adds a flow of another process. Owns the descriptor. */
  adopt(flow: Flow, fd: OwnedFd): void
  arm(flow: Flow, ms: number): void
  /** Lets the datagrams of clients wait in the kernel. */
  pause(): void
  /** Reads on, if this process has the turn. */
  read(): void
  /** Called when the last flow may have ended or moved. */
  settle(): void
  /** If this process waits to begin or end to read, looks at once whether it may. */
  look(): void
}

type MovedFlow = ConnectionValue<FlowRecord>

/** After so many rounds over all flows this process reads no further datagrams, so that no further flow begins. */
const ROUNDS = 3

/**
 * The flows of a UDP listener. Each comes with two descriptors: the socket that is connected to the server, and one that has the turn of the process from
 * which it comes, so that the other process reads no datagram before the flow has arrived.
 */
export class MovingFlows implements MovableConnections<MovedFlow> {
  readonly protocol = 'udp-flow/1'
  onMovable: (() => void) | null = null
  readonly #forward: FlowHost

  constructor(forward: FlowHost) {
    this.#forward = forward
  }

  get movable(): number {
    let count = 0
    for (const { moved, pinned } of this.#forward.flows) if (!moved && !pinned) count++
    return count
  }

  *departures(): Generator<MovedFlow, void, undefined> {
    const forward = this.#forward
    try {
      for (let round = 1; ; round++) {
        const flows = [...forward.flows].filter(({ movable }) => movable)
        if (flows.length === 0) break
        if (round > ROUNDS && flows.length === forward.connections && forward.turn.isLast) forward.pause()
        for (const flow of flows) if (flow.movable) yield this.#export(flow)
      }
      if (forward.connections > 0) forward.read()
      else forward.settle()
    } catch (error) {
      forward.read()
      if (!isShortage(error)) throw error
    }
  }

  #export(flow: Flow): MovedFlow {
    const forward = this.#forward
    const socket = duplicateLent(flow.socket!.descriptor, 'flow to a server')
    const turn = closeOnThrow([socket], () => forward.turn.share())
    const { ends, route, destination, answered, bytesSent, bytesReceived, startedAt } = flow
    const state: FlowRecord = {
      listener: forward.listener,
      ends,
      route,
      destination,
      answered,
      bytesSent,
      bytesReceived,
      remainingMs: Math.ceil(forward.wheel.remaining(flow)),
      elapsedMs: Math.ceil(performance.now() - startedAt),
    }
    forward.disown(flow)
    return { record: encodeFlow(state), fds: [socket, turn], state }
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): MovedFlow {
    const state = decodeFlow(record)
    const [socket, turn] = inspect(fds)
    const isUdp = socket?.socketType === 'dgram' && (socket.family === 'inet' || socket.family === 'inet6')
    if (fds.length !== 2 || !isUdp || turn?.type !== 'file')
      throw flowRefused(`it has ${fds.length} descriptors, which are not a UDP socket and a lock`)
    if (this.#forward.closed) throw flowRefused('its listener was closed')
    if (state.listener !== this.#forward.listener)
      throw flowRefused(`it belongs to the listener ${JSON.stringify(state.listener)}`)
    return { record, fds, state }
  }

  arrive({ state, fds }: MovedFlow, how: Arrival): undefined {
    const forward = this.#forward
    const [socket] = fds as [OwnedFd]
    try {
      const here = how === 'moved' ? undefined : forward.find(keyOf(state.ends))
      // The server was away, so that the client has another flow by now.
      if (here?.moved === false) return
      const flow = here?.moved ? here : new Flow(state.ends, state, forward)
      flow.pinned = how === 'refused'
      if (flow === here) forward.own(flow)
      else {
        const { answered, bytesSent, bytesReceived, elapsedMs } = state
        const startedAt = performance.now() - elapsedMs
        const more = { answered, heard: answered, bytesSent, bytesReceived, startedAt }
        forward.adopt(Object.assign(flow, more), socket)
      }
      if (state.remainingMs >= 0) forward.arm(flow, state.remainingMs)
      if (how !== 'moved') forward.read()
    } finally {
      closeAll(fds)
    }
    forward.look()
  }

  kindOf(): string {
    return 'udp'
  }
}

function flowRefused(why: string): FdbError {
  return new FdbError(
    'ERR_FDB_RELAYED_REFUSED',
    `a flow of datagrams is refused, because ${why}: it stays in the process that sent it`,
  )
}
