import { FdbError } from '../errors.js'
import { firstNotStream, inspectOne, type OwnedFd } from '../kernel/index.js'

/** Decodes a record of another process. Throws ERR_FDB_CONNECTION if it is malformed. */
export function decoded<T>(decode: (record: Uint8Array) => T, record: Uint8Array): T {
  try {
    return decode(record)
  } catch (cause) {
    throw new FdbError(
      'ERR_FDB_CONNECTION',
      `the state of a connection that another process sent (${record.length} bytes) cannot be decoded: one of the two releases is faulty`,
      { cause },
    )
  }
}

/** Returns the only descriptor. Throws ERR_FDB_CONNECTION unless it is a TCP or Unix connection. */
export function onlyConnection(fds: readonly OwnedFd[]): OwnedFd {
  const [fd] = fds
  if (fds.length !== 1 || fd === undefined)
    throw new FdbError(
      'ERR_FDB_CONNECTION',
      `a connection arrived with ${fds.length} descriptors instead of 1`,
    )
  if (firstNotStream(fds) === null) return fd
  const { type, family = 'none', socketType = 'none', accepting = false } = inspectOne(fd)
  throw new FdbError(
    'ERR_FDB_CONNECTION',
    `a connection arrived with a ${accepting ? 'listening ' : ''}${type} (${family}, ${socketType}); it must be a connected TCP or Unix stream socket`,
  )
}

/** Maximum descriptors per connection: the connection's own, and those of its upstream. */
export const MAX_CONNECTION_FDS = 4
/** Maximum bytes per record, far more than a relayed connection has in flight. */
export const MAX_RECORD_BYTES = 4 * 1024 * 1024

/** A connection that has left one process and has not yet arrived in the other: neither process reads from it or writes to it. */
export interface Departure {
  /** Everything that the next process needs, in the format that `protocol` names. The proxy's format is in src/relay/connection-record.ts. */
  readonly record: Uint8Array
  /** The connection's descriptor is the first of 1 to {@link MAX_CONNECTION_FDS}. Owned. */
  readonly fds: readonly OwnedFd[]
  /** Called when the other process has the connection, if the record contains secrets. */
  wipe?(): void
}

/** A departure with its decoded record. */
export interface ConnectionValue<State> extends Departure {
  readonly state: State
}

/** Thrown by {@link MovableConnections.arrive} for a connection that has moved: a hook has thrown, nothing was read, and the other process can continue it. */
export class NotRestored extends Error {
  /** Owned by the catcher. */
  readonly fd: OwnedFd

  constructor(fd: OwnedFd, cause: unknown) {
    super('the hook of a moved connection has thrown', { cause })
    this.fd = fd
  }
}

/** The traffic on a connection since it arrived, as evidence that the receiver can serve it. */
export interface Witness {
  /** The client has sent something, or was already waiting for a response that this process can give: not for one that only another server can. */
  readonly asked: boolean
  /** This process has sent something to the client. */
  readonly answered: boolean
}

/** Which connections may leave: `auto`, all that can at this moment; `idle`, only those between two exchanges. */
export type MoveWhich = 'auto' | 'idle'

/**
 * How a connection arrives. `moved`: from another process. `returned`: the connection had left for another process and could not move now; it may
 * leave again. `refused`: the other process refused the connection; it remains in this process until it ends, and is closed as soon as no request can
 * be lost.
 */
export type Arrival = 'moved' | 'returned' | 'refused'

/**
 * The connections of one server that can continue in another process. fd-broker moves them from the process that stops serving to the one
 * that starts; each connection belongs to exactly one of the two.
 *
 * `Value` is the server's own type of a departure, with the facts that the server needs when the connection arrives or comes back.
 */
export interface MovableConnections<Value extends Departure = Departure> {
  /** The name and version of the record format, for example `http1-relay/1`. Both processes must use the same name and version on the listener. */
  readonly protocol: string
  /** The records contain secrets: the connections move only to a process of the same user. */
  readonly secret?: boolean
  /** The number of connections that may leave, now or later: all that were not refused. */
  readonly movable: number
  /**
   * Takes one connection out of the server with each step of the iterator. The record contains everything that was read and not answered. Skips connections
   * that cannot leave now; calls {@link onMovable} when that may have changed. The caller may stop after any step. A step may
   * yield null, after a connection that stays: the caller can then let the event loop go on.
   */
  departures(which: MoveWhich): Iterator<Value | null, void, undefined>
  /** Called at most once a turn of the event loop, when a connection may be able to leave that was not before. fd-broker sets this property, and sets it to null while no connection leaves. */
  onMovable: (() => void) | null
  /**
   * Checks an arriving connection without opening it; the caller keeps the descriptors. Returns the argument of {@link arrive}; if it
   * returns undefined, {@link arrive} gets an object of `record` and `fds`. Throws an FdbError to refuse the connection; the other process gets the error.
   */
  check(record: Uint8Array, fds: readonly OwnedFd[]): Value | undefined
  /**
   * Starts to serve a connection. `value` is the result of {@link check}, or an element of this server's own {@link departures} whose move has failed. Takes ownership of the descriptors, even if
   * it throws. Returns undefined if the connection is not open yet.
   */
  arrive(value: Value, how: Arrival): Witness | undefined
  /** Returns what the connection is, for example `http`, for counts. Default: the name in {@link protocol}. */
  kindOf?(value: Value): string
}
