import type http from 'node:http'
import type net from 'node:net'
import { responseOf } from '../../node/http-connections.js'

/**
 * Connections that a library has taken over from servers of Node ('upgrade'), or whose unfinished answers it has, and that it moves and ends itself: the
 * WebSockets of one server of a package. The
 * objects of this interface may come from another copy of fd-broker in this process, so they exchange nothing but objects of Node.
 */
export interface TakenOver {
  /** The name and version of the record format, and the name of the server. */
  readonly protocol: string
  /** The server whose connections they are; null: any server's. */
  readonly server: net.Server | null
  /** Whether the connections can continue in another process. */
  readonly moves: boolean
  /** Whether this unfinished answer is one of its own. Absent for connections that were taken over. */
  hasAnswer?(response: http.ServerResponse): boolean
  /** Whether {@link serialize} would return null now, if the connection can leave otherwise. A call costs much less. */
  waits?(socket: net.Socket): boolean
  /**
   * Returns the record of a connection; the caller then owns the connection and destroys the socket. Returns null if the connection cannot leave now; calls
   * `movable` when it may leave soon, for which it is held. Throws the exception of the application's hook; the connection then stays.
   */
  serialize(socket: net.Socket, movable: (socket: net.Socket) => void): Uint8Array | null
  /** Continues a connection. Throws the exception of the application's hook; nothing was read from the socket or written to it then. */
  restore(socket: net.Socket, record: Uint8Array): void
  /** Returns why a connection has not left. */
  reasonOf(socket: net.Socket): string
  /** No connection leaves now: lets all continue here that wait to leave. */
  takeBack(): void
  /** Ends those of the connections that are its own, spread over `withinMs`. `failed` gets the exceptions of the application's hooks. */
  leave(sockets: readonly net.Socket[], how: Leaving): void
  /** Revokes {@link leave} for the connections that are still open. */
  stay(): void
}

export interface Leaving {
  /** Milliseconds. */
  readonly withinMs: number
  /** `replaced`: the client can reconnect to another process; `ended`: the service ends. */
  readonly why: 'replaced' | 'ended'
  readonly failed: (error: unknown) => void
}

interface Registry {
  readonly sockets: WeakMap<net.Socket, TakenOver>
  readonly all: Set<TakenOver>
}

/** A global symbol, because a preload and a program may each have a copy of this library. */
const REGISTRY = Symbol.for('fd-broker.taken-over-1')

function registry(): Registry {
  const holder = globalThis as { [REGISTRY]?: Registry }
  holder[REGISTRY] ??= { sockets: new WeakMap(), all: new Set() }
  return holder[REGISTRY]
}

/** Returns a function that removes `taken` again. */
export function addTakenOver(taken: TakenOver): () => void {
  registry().all.add(taken)
  return () => void registry().all.delete(taken)
}

/** `socket` belongs to `taken` from now on. */
export function takeOver(socket: net.Socket, taken: TakenOver): void {
  registry().sockets.set(socket, taken)
}

/** Returns the one that has taken over the connection, or that has its unfinished answer: one for single answers before one for all answers of a server. */
export function takenOverOf(socket: net.Socket): TakenOver | undefined {
  const taken = registry().sockets.get(socket)
  if (taken !== undefined) return taken
  const response = responseOf(socket)
  if (response === null) return undefined
  const having = [...registry().all].filter(each => each.hasAnswer?.(response))
  return having.find(({ server }) => server === null) ?? having[0]
}

/** Returns the one that continues connections of `protocol` on `server`. */
export function takenOverFor(server: net.Server | null, protocol: string): TakenOver | undefined {
  const named = [...registry().all].filter(taken => taken.protocol === protocol)
  return named.find(taken => taken.server === server) ?? named.find(taken => taken.server === null)
}

export function takeBackAll(): void {
  for (const taken of registry().all) taken.takeBack()
}

/** Ends the connections among `sockets` that libraries have taken over. `only`: those that this function accepts. */
export function leaveTakenOver(
  sockets: Iterable<net.Socket>,
  how: Leaving,
  only: (taken: TakenOver) => boolean = () => true,
): void {
  const bySide = new Map<TakenOver, net.Socket[]>()
  for (const socket of sockets) {
    const taken = takenOverOf(socket)
    if (taken === undefined || !only(taken)) continue
    const own = bySide.get(taken)
    if (own === undefined) bySide.set(taken, [socket])
    else own.push(socket)
  }
  for (const [taken, own] of bySide) taken.leave(own, how)
}

export function stayTakenOver(): void {
  for (const taken of registry().all) taken.stay()
}
