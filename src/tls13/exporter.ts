import type tls from 'node:tls'
import { observe } from '../node/observed-events.js'
import { expectedTls, expectTls, isAmidRecord } from '../node/openssl.js'
import { nextBytes } from '../node/socket-handle.js'
import {
  asksForCertificate,
  countChunks,
  countWrites,
  observeSecrets,
  readNext,
  type TlsCounts,
  tlsCountsOf,
} from '../node/tls-counts.js'
import { NO_BYTES } from '../proto/message.js'
import { HEADER_BYTES, TAG_BYTES } from './protection.js'
import { isRecordHeader, MOST_ENCRYPTED, secretBytesOf, type TrafficState } from './record-layer.js'
import { hasShortRecords } from './session.js'

/** A record's header, type and tag: what it adds to its content. */
const RECORD_BYTES = HEADER_BYTES + 1 + TAG_BYTES
/** Some clients pad each of their records with so many zeros (JSSE). */
const PADDINGS = [0, 16]
/** The record of a change_cipher_spec, which most clients send before their Finished (RFC 8446, D.4). */
const CHANGE_CIPHER_SPEC_BYTES = [0, 6]
const MESSAGE_HEADER_BYTES = 4
/** The message of a client that has no certificate, if the server asks for one, in one record with the Finished (RFC 8446, 4.4.2). */
const EMPTY_CERTIFICATE_BYTES = 8
/** A record that is not the last one of a write has at least so much content. */
const LEAST_FRAGMENT = 512
/** A segment of TCP has at least so many bytes, unless the client has sent no more. */
const ONE_SEGMENT_BYTES = 1_200
/** Tickets that OpenSSL sends after a handshake, and after a resumption. */
const TICKETS = { full: 2, resumed: 1 }
/**
 * Where OpenSSL does not tell it, a connection is between two records when nothing has arrived on it for this long, in milliseconds: the bytes of a record that has arrived in parts
 * could look like records.
 */
export const QUIET_MS = 50
/** The interval at which a connection is looked at whose first bytes the kernel has not taken. */
const UNSENT_MS = 20

/** Why the connection cannot move, now or ever. */
export type StayReason =
  | 'tls1.2'
  | 'handshake'
  | 'key-update'
  | 'client-certificate'
  | 'half-record'
  | 'sending'

/** Reads a secret from a line of the key log, without making a string of it. */
export function parseKeyLog(line: Buffer): { label: string; secret: Buffer } {
  const end = line.at(-1) === 10 ? line.length - 1 : line.length
  const random = line.indexOf(32)
  const from = line.indexOf(32, random + 1) + 1
  const secret = Buffer.alloc((end - from) >> 1)
  for (let i = 0; i < secret.length; i++)
    secret[i] = (digit(line[from + 2 * i]!) << 4) | digit(line[from + 2 * i + 1]!)
  return { label: line.toString('latin1', 0, random), secret }
}

function digit(code: number): number {
  return code <= 57 ? code - 48 : (code | 32) - 87
}

/** Bytes that the server has written until the handshake was complete. */
interface Baseline {
  readonly suite: string
  /** The bytes of records, without those of the application's data, with the tickets. */
  readonly written: number
  readonly tickets: number
  readonly readings: readonly Reading[]
}

/** How many bytes the client may have sent until its handshake was complete, and how many each of its records adds. */
interface Reading {
  readonly read: number
  readonly perRecord: number
}

/**
 * The secrets of one native TLS 1.3 connection of a server, and the numbers of its next records. These follow from byte counts, because each record of the three suites adds the same number of
 * bytes. If a count is not exact, the connection does not move.
 */
export class TlsPosition {
  readonly #socket: tls.TLSSocket
  #readSecret: Buffer | null = null
  #writeSecret: Buffer | null = null
  /** Bytes that were read when the first secret was made, and bytes that were written when the client's Finished was read. */
  #helloBytes = 0
  #flightBytes = 0
  #earlyRecords = 0
  #isSecured = false
  /** null until the kernel has all that was written in the handshake, and what the application has written meanwhile. */
  #baseline: Baseline | null = null
  /** How many records with data were read, or null if they are not counted. */
  #records: number | null = null
  /** Bytes that {@link readRecord} has read. */
  #readHere = 0
  /** OpenSSL has told whether a record has arrived in part. */
  #tellsRecords = false
  #never: StayReason | null = null

  constructor(socket: tls.TLSSocket) {
    this.#socket = socket
    socket.once('close', () => this.wipe())
  }

  /** For each line of the key log. */
  log(line: Buffer): void {
    const { label, secret } = parseKeyLog(line)
    const counts = tlsCountsOf(this.#socket)
    if (label === 'SERVER_HANDSHAKE_TRAFFIC_SECRET') this.#helloBytes = counts?.read ?? 0
    if (label === 'SERVER_TRAFFIC_SECRET_0') this.#writeSecret = secret
    else if (label === 'CLIENT_TRAFFIC_SECRET_0') {
      this.#readSecret = secret
      this.#flightBytes = counts?.written ?? 0
    } else {
      secret.fill(0)
      // From now on the counts tell nothing about the numbers of records, which begin again.
      if (label.endsWith('_TRAFFIC_SECRET_N')) this.#give('key-update')
    }
  }

  /**
   * The handshake is complete. The application may send its first data before OpenSSL has sent its tickets. `isCounted`: OpenSSL passes each record on as one chunk to the
   * socket, where it is counted.
   */
  secured(isCounted: boolean): void {
    this.#isSecured = true
    if (isCounted) {
      this.#records = 0
      countChunks(this.#socket, () => this.#records!++)
    }
    // The length of records is the program's choice.
    const stop = countWrites(this.#socket, (bytes, encryptedBytes) => {
      const records = (encryptedBytes - bytes) / RECORD_BYTES
      if (isCount(records)) this.#earlyRecords += records
      // OpenSSL keeps it until it has sent its tickets.
      else if (bytes <= LEAST_FRAGMENT) this.#earlyRecords++
      else this.#give('handshake')
    })
    const settle = () => {
      const counts = tlsCountsOf(this.#socket)
      if (counts !== null && !counts.isSent) {
        setTimeout(settle, UNSENT_MS).unref()
        return
      }
      stop()
      if (counts !== null && this.#never === null) this.#settle(counts)
    }
    setImmediate(settle)
  }

  #settle(counts: TlsCounts): void {
    const { standardName: suite } = this.#socket.getCipher()
    const hash = secretBytesOf(suite)
    if (this.#socket.getProtocol() !== 'TLSv1.3' || hash === undefined) this.#give('tls1.2')
    else if (this.#readSecret === null || this.#writeSecret === null) this.#give('handshake')
    else if (this.#isAsked && this.#hasCertificate) this.#give('client-certificate')
    // After a move nothing would say how long a record may be.
    else if (hasShortRecords(this.#socket.getSession())) this.#give('handshake')
    else {
      const written = counts.written - counts.plainWritten - RECORD_BYTES * this.#earlyRecords
      const finished = this.#helloBytes + RECORD_BYTES + MESSAGE_HEADER_BYTES + hash
      const all = readingsUntil(finished, this.#isAsked)
      const found = all.filter(reading => this.#recordsOf(counts, reading) !== null)
      // More may end within a record, and then look like another reading: all are tried later.
      const isWhole =
        isAmidRecord(this.#socket) === false ||
        counts.plainRead === 0 ||
        counts.read - this.#helloBytes <= ONE_SEGMENT_BYTES
      const readings = isWhole && found.length > 0 ? found : all
      this.#baseline = { suite, written, tickets: this.#tickets(written), readings }
    }
  }

  /** Whether the client has sent a certificate, or said that it has none. A client that resumes its session is not asked. */
  get #isAsked(): boolean {
    return asksForCertificate(this.#socket) && !this.#socket.isSessionReused()
  }

  get #hasCertificate(): boolean {
    return Object.keys(this.#socket.getPeerCertificate()).length > 0
  }

  #tickets(written: number): number {
    if (written === this.#flightBytes) return 0
    return this.#socket.isSessionReused() ? TICKETS.resumed : TICKETS.full
  }

  #give(reason: StayReason): void {
    this.#never = reason
    this.wipe()
  }

  /** Whether the connection can leave, now or later. */
  get isMovable(): boolean {
    return this.#never === null
  }

  get #counts(): TlsCounts | null {
    const counts = tlsCountsOf(this.#socket)
    return counts === null || this.#readHere === 0
      ? counts
      : { ...counts, read: counts.read + this.#readHere }
  }

  /**
   * Reads on to the end of a record that has arrived in part, but not beyond, if the begin of the next one can be seen. Call it only if the position {@link isExact} and
   * Node does not read.
   */
  readRecord(): void {
    const next = nextBytes(this.#socket, HEADER_BYTES + MOST_ENCRYPTED + HEADER_BYTES)
    for (let at = 0; at < next.length && this.stays === 'half-record'; ) {
      let end = at + 1
      while (end < next.length && !isRecordHeader(next.subarray(end, end + HEADER_BYTES))) end++
      const bytes = readNext(this.#socket, end - at)
      if (bytes === 0) return
      this.#readHere += bytes
      at = end
    }
  }

  /** How many bytes were read, encrypted ones. While it stays the same, no record arrives in parts. */
  get bytesRead(): number {
    return this.#counts?.read ?? 0
  }

  /** Returns the reason why it cannot leave now, or null. */
  get stays(): StayReason | null {
    const found = this.#numbers()
    return typeof found === 'string' ? found : null
  }

  /** Whether {@link stays} notices a record that has arrived in part, also one that looks like records: OpenSSL has told it, or it follows from the counts. */
  get isExact(): boolean {
    return this.#tellsRecords || (this.#records !== null && this.#baseline?.readings.length === 1)
  }

  #recordsOf(counts: TlsCounts, reading: Reading): number | null {
    const records = recordsOf(counts, reading)
    return this.#records === null || records === this.#records ? records : null
  }

  #numbers(): { readSequence: number; writeSequence: number } | StayReason {
    if (this.#never !== null) return this.#never
    const counts = this.#counts
    if (counts === null) return 'handshake'
    if (!counts.isSent && this.#isSecured) return 'sending'
    if (this.#baseline === null) return 'handshake'
    const isAmid = isAmidRecord(this.#socket)
    this.#tellsRecords = isAmid !== null
    if (isAmid === true) return 'half-record'
    const { written, tickets, readings } = this.#baseline
    let readSequence: number | null = null
    for (const reading of readings) {
      const records = this.#recordsOf(counts, reading)
      if (records !== null && readSequence !== null) return 'handshake'
      readSequence ??= records
    }
    if (readSequence === null) return 'half-record'
    const sent = (counts.written - counts.plainWritten - written) / RECORD_BYTES
    return isCount(sent) ? { readSequence, writeSequence: tickets + sent } : 'handshake'
  }

  /** Returns a copy of the position, or null if the connection cannot leave now. Nothing may be read or written afterwards. */
  state(): TrafficState | null {
    const numbers = this.#numbers()
    if (typeof numbers === 'string') return null
    return {
      suite: this.#baseline!.suite,
      readSecret: Buffer.from(this.#readSecret!),
      writeSecret: Buffer.from(this.#writeSecret!),
      readSequence: numbers.readSequence,
      writeSequence: numbers.writeSequence,
      sealed: NO_BYTES,
      unsent: NO_BYTES,
      received: NO_BYTES,
    }
  }

  wipe(): void {
    this.#readSecret?.fill(0)
    this.#writeSecret?.fill(0)
    this.#readSecret = null
    this.#writeSecret = null
    this.#baseline = null
  }
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0
}

/**
 * Between the client's first messages and its first data: a change_cipher_spec, the empty list of certificates, if `isAsked`, and the Finished, in one record or in two, perhaps
 * padded. `finished`: the bytes with the Finished, without the others.
 */
function readingsUntil(finished: number, isAsked: boolean): Reading[] {
  return PADDINGS.flatMap(padding => {
    const perRecord = RECORD_BYTES + padding
    const certificates = isAsked ? [EMPTY_CERTIFICATE_BYTES, EMPTY_CERTIFICATE_BYTES + perRecord] : [0]
    return certificates.flatMap(certificate =>
      CHANGE_CIPHER_SPEC_BYTES.map(changed => ({
        read: finished + certificate + changed + padding,
        perRecord,
      })),
    )
  })
}

/** Returns the number of the client's records with data, or null if it does not follow from the counts. */
function recordsOf({ read, plainRead }: TlsCounts, reading: Reading): number | null {
  const records = (read - plainRead - reading.read) / reading.perRecord
  return isCount(records) && records > 0 === plainRead > 0 ? records : null
}

/** The positions of the connections that a server has accepted since {@link follow}. */
export class TlsPositions {
  readonly #positions = new WeakMap<tls.TLSSocket, TlsPosition>()

  /** Returns a function that ends this for later connections. */
  follow(server: tls.Server): () => void {
    const stops = [
      observe(server, { connection: expectTls }, { connection: expectedTls }),
      observeSecrets(server, (socket, line) => this.#add(socket).log(line)),
    ]
    return () => {
      for (const stop of stops) stop()
    }
  }

  #add(socket: tls.TLSSocket): TlsPosition {
    let position = this.#positions.get(socket)
    if (position === undefined) {
      position = new TlsPosition(socket)
      this.#positions.set(socket, position)
    }
    return position
  }

  secured(socket: tls.TLSSocket, isCounted: boolean): void {
    this.#positions.get(socket)?.secured(isCounted)
  }

  of(socket: tls.TLSSocket): TlsPosition | undefined {
    return this.#positions.get(socket)
  }
}
