import { FdbError } from '../errors.js'
import { firstNotStream, inspectOne, type OwnedFd } from '../kernel/index.js'

/** Decodes what another process has written. Throws ERR_FDB_CONNECTION when it is none of it. */
export function decoded<T>(decode: (record: Uint8Array) => T, record: Uint8Array): T {
  try {
    return decode(record)
  } catch (cause) {
    throw new FdbError(
      'ERR_FDB_CONNECTION',
      `the record of a connection (${record.length} bytes) cannot be read`,
      { cause },
    )
  }
}

/** The one descriptor of a TCP or Unix connection. Throws ERR_FDB_CONNECTION for anything else. */
export function onlyConnection(fds: readonly OwnedFd[]): OwnedFd {
  const [fd] = fds
  if (fds.length !== 1 || fd === undefined)
    throw new FdbError('ERR_FDB_CONNECTION', `a connection brought ${fds.length} descriptors; it has 1`)
  if (firstNotStream(fds) === null) return fd
  const { type, family = 'none', socketType = 'none', accepting = false } = inspectOne(fd)
  throw new FdbError(
    'ERR_FDB_CONNECTION',
    `a connection brought a ${accepting ? 'listening ' : ''}${type} (${family}, ${socketType}); it must be a connected TCP or Unix stream socket`,
  )
}

/** Descriptors that one connection may bring: its own, and that of the server behind it. */
export const MAX_CONNECTION_FDS = 4
/** The most bytes of a record: the bytes in flight on both sides of a relayed connection fit many times. */
export const MAX_RECORD_BYTES = 4 * 1024 * 1024

/** A connection between two processes: neither reads from it or writes to it. */
export interface Departure {
  /** Everything that the next process needs; only its protocol knows the meaning. */
  readonly record: Uint8Array
  /** The connection's descriptor first. The code that takes the departure owns them. 1 to {@link MAX_CONNECTION_FDS}. */
  readonly fds: readonly OwnedFd[]
}

/** A connection as a value: who has it in this process need not read its record again to go on with it. */
export interface ConnectionValue<State> extends Departure {
  readonly state: State
}

/** Counts the traffic on a connection since it arrived: whether the receiver can answer over it. */
export interface Witness {
  /** Something came from its peer, or was owed to it. */
  readonly asked: boolean
  /** Something went to its peer. */
  readonly answered: boolean
}

/** Which connections may leave: `auto`, all that can at this moment; `idle`, only those between two exchanges. */
export type MoveWhich = 'auto' | 'idle'

/**
 * How a connection came into this process's hands. `moved`: another process served it until now. `returned`: it was
 * this process's own, and could not go now; it may leave again. `refused`: it was this process's own, and the other will
 * not have it: it stays until it ends, and its peer is told to go as soon as that loses nothing.
 */
export type Arrival = 'moved' | 'returned' | 'refused'

/**
 * The connections of one server, as far as they can go on in another process. The engine takes them out of the process
 * that does not serve any more and gives them to the one that does; a connection is in the hands of exactly one of them.
 *
 * `Value` is a departure as the server itself has it, with whatever it wants to know of it when it comes back or arrives.
 */
export interface MovableConnections<Value extends Departure = Departure> {
  /** Names what records mean, with a version: `http1-relay/1`. Both processes must have one of the same name on the listener. */
  readonly protocol: string
  /** Connections that are here and have not been refused: those that may leave now or later. */
  readonly movable: number
  /**
   * Takes one connection out of the server with each step; all that was read and not answered is in its record. The caller may stop between two steps.
   * Skips those that cannot leave now: {@link onMovable} is called when that may have changed.
   */
  departures(which: MoveWhich): Iterator<Value, void, undefined>
  /** Called, at most once a turn of the event loop, when a connection that could not leave may be able to. Set by the engine. */
  onMovable: (() => void) | null
  /**
   * Looks at an offer, and opens nothing: the descriptors stay the caller's. Returns the argument of {@link arrive}; undefined: record and descriptors as they came.
   * Throws an FdbError if it cannot be had, which the other process is told.
   */
  check(record: Uint8Array, fds: readonly OwnedFd[]): Value | undefined
  /** Goes on with the result of {@link check}, or one of its own {@link departures}. Takes the descriptors, also when it throws. Undefined: not known yet. */
  arrive(value: Value, how: Arrival): Witness | undefined
}
