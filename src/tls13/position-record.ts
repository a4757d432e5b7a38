import { FdbError } from '../errors.js'
import type { fdbroker } from '../proto/connections.js'
import { NO_BYTES } from '../proto/message.js'
import { secretBytesOf, type TrafficState } from './record-layer.js'
import type { TlsFacts } from './tls-socket.js'

/** The part of a connection's record that has its TLS. Contains secrets. */
export type PositionRecord = fdbroker.connections.TlsPosition.$Properties

/** Each field by its name: V8 makes the object at once, not field after field. */
export function toRecord(state: TrafficState, facts: TlsFacts): PositionRecord {
  return {
    suite: state.suite,
    readSecret: state.readSecret,
    readSequence: state.readSequence,
    writeSecret: state.writeSecret,
    writeSequence: state.writeSequence,
    sealed: state.sealed,
    unsent: state.unsent,
    received: state.received,
    authorized: facts.authorized,
    authorizationError: facts.authorizationError ?? '',
    servername: facts.servername || '',
    alpnProtocol: facts.alpnProtocol || '',
    sessionReused: facts.isSessionReused,
    certificates: [...facts.certificates],
  }
}

export function toState(record: PositionRecord): TrafficState {
  return {
    suite: record.suite ?? '',
    readSecret: record.readSecret ?? NO_BYTES,
    readSequence: record.readSequence ?? 0,
    writeSecret: record.writeSecret ?? NO_BYTES,
    writeSequence: record.writeSequence ?? 0,
    sealed: record.sealed ?? NO_BYTES,
    unsent: record.unsent ?? NO_BYTES,
    received: record.received ?? NO_BYTES,
  }
}

export function toFacts(record: PositionRecord): TlsFacts {
  return {
    authorized: record.authorized ?? false,
    authorizationError: record.authorizationError || null,
    servername: record.servername || false,
    alpnProtocol: record.alpnProtocol || false,
    isSessionReused: record.sessionReused ?? false,
    certificates: record.certificates ?? [],
  }
}

/** Throws ERR_FDB_CONNECTION if this process cannot continue a connection with this record. */
export function checkPosition(tls: PositionRecord | null | undefined): void {
  const bytes = secretBytesOf(tls?.suite ?? '')
  const isWhole = tls?.readSecret?.length === bytes && tls?.writeSecret?.length === bytes
  if (bytes !== undefined && isWhole) return
  throw new FdbError(
    'ERR_FDB_CONNECTION',
    'a TLS connection arrived with a cipher suite or keys that this version does not know: it stays in the process that sent it',
  )
}

/** Returns the method of a departure that wipes its secrets, if it has any. `record`: the encoded record. */
export function wipes(
  { readSecret, writeSecret }: PositionRecord = {},
  record?: Uint8Array,
): { wipe?(): void } {
  if (!readSecret) return {}
  return { wipe: () => [readSecret, writeSecret, record].map(bytes => bytes?.fill(0)) }
}
