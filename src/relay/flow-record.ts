import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import { ENDS_BYTES } from '../kernel/index.js'
import { fdbroker } from '../proto/connections.js'

/** The complete state of a flow. With this record and the socket that is connected to the server another process continues the flow. */
export interface FlowRecord {
  listener: string
  /** Both ends of the client's datagrams, see `DatagramSocket.readFrom()`. */
  ends: Buffer
  /** The name of the upstream. */
  route: string
  /** {@link Destination.key}. */
  destination: string
  /** The server has sent a datagram. */
  answered: boolean
  bytesSent: number
  bytesReceived: number
  /** Milliseconds until the flow ends, if no datagram comes. */
  remainingMs: number
  /** Milliseconds since the flow began, for the access log. */
  elapsedMs: number
}

const { Flow } = fdbroker.connections

const MOST_NAME_CHARACTERS = 1024

export function encodeFlow(record: FlowRecord): Uint8Array {
  return Flow.encode(record).finish()
}

/** Throws ERR_FDB_RELAYED_RECORD for an impossible record. */
export function decodeFlow(bytes: Uint8Array): FlowRecord {
  let message: fdbroker.connections.Flow
  try {
    message = Flow.decode(bytes)
  } catch (cause) {
    throw wrong('it is not a valid protobuf message', cause)
  }
  const { listener, ends, route, destination, answered, bytesSent, bytesReceived } = message
  if (ends.length !== ENDS_BYTES || (ends[0] !== 4 && ends[0] !== 6))
    throw wrong(`its client's address has ${ends.length} bytes`)
  for (const name of [listener, route, destination])
    if (name.length > MOST_NAME_CHARACTERS) throw wrong(`it has a name of ${name.length} characters`)
  return {
    listener,
    // A decoded message only refers to a buffer that is used again.
    ends: Buffer.from(ends),
    route,
    destination,
    answered,
    bytesSent,
    bytesReceived,
    remainingMs: Math.min(message.remainingMs, LONGEST_MS),
    elapsedMs: message.elapsedMs,
  }
}

function wrong(why: string, cause?: unknown): FdbError {
  return new FdbError(
    'ERR_FDB_RELAYED_RECORD',
    `the record of a flow is invalid: ${why}. It is damaged or from an incompatible version; the flow stays in the process that sent it`,
    { cause },
  )
}
