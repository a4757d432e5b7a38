import { type Suite, suiteOf } from './key-schedule.js'
import { HEADER_BYTES, Protection, TAG_BYTES } from './protection.js'

/** Types of content. */
const ALERT = 21
const HANDSHAKE = 22
const APPLICATION_DATA = 23

/** Alerts (RFC 8446, 6). */
const CLOSE_NOTIFY = 0
const UNEXPECTED_MESSAGE = 10
const BAD_RECORD_MAC = 20
const RECORD_OVERFLOW = 22
const ILLEGAL_PARAMETER = 47
const DECODE_ERROR = 50
const USER_CANCELED = 90
const FATAL = 2
const WARNING = 1

const KEY_UPDATE = 24
const MESSAGE_HEADER_BYTES = 4

/** The most content of one record. */
export const MOST_CONTENT = 2 ** 14
export const MOST_ENCRYPTED = MOST_CONTENT + 256
/** The most records without data of the application that may follow one another. */
const MOST_EMPTY = 32
/** After so many records with one key this side goes on with the next: AES-GCM is safe for 2^24.5 (RFC 8446, 5.5). */
const MOST_RECORDS = 2 ** 23
const NOTHING = Buffer.alloc(0)

/** The position of an established connection from the server's view. Contains secrets. */
export interface TrafficState {
  /** The name of the suite, as `getCipher().standardName`. */
  readonly suite: string
  readonly readSecret: Uint8Array
  /** The number of the next record in this direction, with the present secret. */
  readonly readSequence: number
  readonly writeSecret: Uint8Array
  readonly writeSequence: number
  /** The rest of the records that were written before: it is sent at once. May begin within a record. */
  readonly sealed: Uint8Array
  /** Records that precede the next one that is written: a KeyUpdate, or nothing. */
  readonly unsent: Uint8Array
  /** Bytes that were received and not opened. */
  readonly received: Uint8Array
}

/** The client has violated the protocol, or an attacker has changed its bytes. */
export class RecordError extends Error {
  /** The number of the alert that the client gets. */
  readonly alert: number
  readonly code = 'EPROTO'

  constructor(alert: number, message: string) {
    super(message)
    this.alert = alert
  }
}

/** The client has ended the connection by an alert. */
export class AlertReceived extends Error {
  readonly code = 'ECONNRESET'

  constructor(alert: number) {
    super(`the TLS client has sent alert ${alert}`)
  }
}

/** Returns undefined for a suite that this library does not know. */
export function secretBytesOf(suite: string): number | undefined {
  return suiteOf(suite)?.secretBytes
}

/** The record layer of a server for a connection whose handshake another TLS implementation has made. Pure: does not read or write a socket. */
export class RecordLayer {
  readonly suite: string
  readonly #read: Protection
  readonly #write: Protection
  #sealed: Buffer
  #unsent: Buffer
  /** The begin of a record. */
  #received: Buffer
  /** The begin of a handshake message. */
  #message = NOTHING
  #empty = 0
  #isClosed = false
  #isWiped = false
  /** The client has asked for a KeyUpdate, which precedes the next application data. */
  #owesUpdate = false

  /** Copies the secrets. Throws for an unknown suite. */
  constructor(state: TrafficState) {
    const suite: Suite | undefined = suiteOf(state.suite)
    if (suite === undefined) throw new Error(`TLS suite ${state.suite} is not supported`)
    this.suite = state.suite
    this.#read = new Protection(suite, state.readSecret, state.readSequence)
    this.#write = new Protection(suite, state.writeSecret, state.writeSequence)
    this.#sealed = joined(state.sealed)
    this.#unsent = joined(state.unsent)
    this.#received = joined(state.received)
  }

  /** The client has sent close_notify: it sends nothing more. */
  get isClosed(): boolean {
    return this.#isClosed
  }

  /** The begin of a record was received, but not its end. */
  get isInRecord(): boolean {
    return this.#received.length > 0
  }

  /**
   * Opens all records that are complete with `bytes`, and calls `data` for the content of each, which may {@link wipe} this layer. Throws a RecordError or AlertReceived; the content of the records before
   * the wrong one was passed on then. Throws the exception of `data`; the next call opens the records behind.
   */
  receive(bytes: Buffer, data: (content: Buffer) => void): void {
    let rest = bytes
    // Copies no more than the end of the record that has begun.
    while (this.#received.length > 0 && this.#isOpen) {
      const missing = Math.max(0, (recordLength(this.#received) ?? HEADER_BYTES) - this.#received.length)
      const begun = Buffer.concat([this.#received, rest.subarray(0, missing)])
      if (rest.length < missing) {
        this.#received = begun
        return
      }
      rest = rest.subarray(missing)
      try {
        this.#openAll(begun, data)
      } catch (error) {
        this.#received = Buffer.concat([this.#received, rest])
        throw error
      }
    }
    this.#openAll(rest, data)
  }

  /** Opens the complete records, and keeps the begin of the next one. */
  #openAll(bytes: Buffer, data: (content: Buffer) => void): void {
    let rest = bytes
    this.#received = NOTHING
    try {
      while (this.#isOpen) {
        const length = recordLength(rest)
        if (length === null || rest.length < length) break
        const record = rest.subarray(0, length)
        rest = rest.subarray(length)
        this.#open(record, data)
      }
    } finally {
      if (this.#isOpen && rest.length > 0) this.#received = Buffer.from(rest)
    }
  }

  get #isOpen(): boolean {
    return !this.#isClosed && !this.#isWiped
  }

  #open(record: Buffer, data: (content: Buffer) => void): void {
    const inner = this.#read.open(record)
    if (inner === null) throw new RecordError(BAD_RECORD_MAC, 'a TLS record cannot be opened')
    if (inner.length > MOST_CONTENT + 1)
      throw new RecordError(RECORD_OVERFLOW, 'the content of a TLS record is too long')
    let end = inner.length - 1
    while (end >= 0 && inner[end] === 0) end--
    if (end < 0) throw new RecordError(UNEXPECTED_MESSAGE, 'a TLS record has no type')
    const content = inner.subarray(0, end)
    const type = inner[end]
    if (type !== HANDSHAKE && this.#message.length > 0)
      throw new RecordError(UNEXPECTED_MESSAGE, 'a TLS message is interrupted by another record')
    if (type === APPLICATION_DATA && content.length > 0) this.#empty = 0
    else if (++this.#empty > MOST_EMPTY)
      throw new RecordError(UNEXPECTED_MESSAGE, 'too many TLS records without data')
    if (type === APPLICATION_DATA) this.#data(content, data)
    else if (type === ALERT) this.#alert(content)
    else if (type === HANDSHAKE) this.#handshake(content)
    else throw new RecordError(UNEXPECTED_MESSAGE, `a TLS record has type ${type}`)
  }

  #data(content: Buffer, data: (content: Buffer) => void): void {
    if (content.length > 0) data(content)
  }

  #alert(content: Buffer): void {
    if (content.length !== 2) throw new RecordError(DECODE_ERROR, 'a TLS alert has a wrong length')
    const alert = content[1]!
    if (alert === CLOSE_NOTIFY) this.#isClosed = true
    else if (alert !== USER_CANCELED) throw new AlertReceived(alert)
  }

  #handshake(content: Buffer): void {
    if (content.length === 0) throw new RecordError(UNEXPECTED_MESSAGE, 'a TLS message is empty')
    const message = Buffer.concat([this.#message, content])
    // A client that asked for no client certificate sends nothing but a KeyUpdate after the handshake.
    if (message[0] !== KEY_UPDATE)
      throw new RecordError(UNEXPECTED_MESSAGE, `a TLS message of type ${message[0]} after the handshake`)
    const length = message.length < MESSAGE_HEADER_BYTES ? 1 : message.readUIntBE(1, 3)
    if (length !== 1) throw new RecordError(DECODE_ERROR, 'a KeyUpdate has a wrong length')
    if (message.length <= MESSAGE_HEADER_BYTES) {
      this.#message = message
      return
    }
    // The next record has another key, so that a message may not begin in this one.
    if (message.length > MESSAGE_HEADER_BYTES + 1)
      throw new RecordError(UNEXPECTED_MESSAGE, 'a KeyUpdate does not end its TLS record')
    const requested = message[MESSAGE_HEADER_BYTES]!
    if (requested > 1) throw new RecordError(ILLEGAL_PARAMETER, `a KeyUpdate has the value ${requested}`)
    this.#message = NOTHING
    this.#read.update()
    if (requested === 1) this.#owesUpdate = true
  }

  /** Returns the parts of the records that send `content`, each with at most `most` bytes of it. */
  seal(content: Uint8Array, most = MOST_CONTENT): Buffer[] {
    const parts: Buffer[] = []
    for (let at = 0; at < content.length; at += most) {
      if (this.#owesUpdate || this.#write.sequence >= MOST_RECORDS) parts.push(this.#update())
      parts.push(...this.#write.seal(APPLICATION_DATA, content.subarray(at, at + most)))
    }
    return this.#afterUnsent(parts)
  }

  /** Returns the record that ends this side's direction. */
  sealClose(): Buffer {
    return Buffer.concat(this.#afterUnsent(this.#write.seal(ALERT, Buffer.of(WARNING, CLOSE_NOTIFY))))
  }

  sealAlert(alert: number): Buffer {
    return Buffer.concat(this.#afterUnsent(this.#write.seal(ALERT, Buffer.of(FATAL, alert))))
  }

  #update(): Buffer {
    this.#owesUpdate = false
    return this.#write.sealUpdate()
  }

  #afterUnsent(parts: Buffer[]): Buffer[] {
    if (this.#unsent.length === 0) return parts
    const unsent = Buffer.concat([this.#sealed, this.#unsent])
    this.#sealed = NOTHING
    this.#unsent = NOTHING
    return [unsent, ...parts]
  }

  /** Returns the bytes that must be sent even if nothing follows. */
  takeSealed(): Buffer {
    return this.#sealed.length > 0 ? Buffer.concat(this.#afterUnsent([])) : NOTHING
  }

  /** Reports whether {@link takeState} can express the position. */
  get canLeave(): boolean {
    return !this.#isClosed && this.#message.length === 0
  }

  /**
   * Returns the position for another process, and ends this layer. Goes on with the next key, unless nothing was sealed with the present one: the other process cannot open
   * what this one has sent, and cannot seal anything with a nonce that this one has used. `unread`: bytes that were received and not passed to this layer; `sealed`: bytes
   * that this layer has returned, and that were not sent.
   */
  takeState(unread: Uint8Array, sealed: Uint8Array = NOTHING): TrafficState {
    if (this.#owesUpdate || this.#write.sequence > 0 || this.#unsent.length === 0)
      this.#unsent = Buffer.concat([this.#unsent, this.#update()])
    const state = {
      suite: this.suite,
      readSequence: this.#read.sequence,
      readSecret: this.#read.takeSecret(),
      writeSequence: this.#write.sequence,
      writeSecret: this.#write.takeSecret(),
      sealed: joined(this.#sealed, sealed),
      unsent: this.#unsent,
      received: joined(this.#received, unread),
    }
    this.wipe()
    return state
  }

  /** Ends this layer: it opens and seals nothing more. */
  wipe(): void {
    this.#isWiped = true
    this.#read.wipe()
    this.#write.wipe()
  }
}

/** Returns the length of the record at the begin of `bytes`, or null if its header is not complete. */
function recordLength(bytes: Buffer): number | null {
  if (bytes.length === 0) return null
  if (bytes[0] !== APPLICATION_DATA)
    throw new RecordError(UNEXPECTED_MESSAGE, `a TLS record has type ${bytes[0]} outside`)
  if (bytes.length < HEADER_BYTES) return null
  const length = bytes.readUInt16BE(3)
  if (length > MOST_ENCRYPTED) throw new RecordError(RECORD_OVERFLOW, 'a TLS record is too long')
  if (length <= TAG_BYTES) throw new RecordError(BAD_RECORD_MAC, 'a TLS record is too short')
  return HEADER_BYTES + length
}

/** Reports whether `bytes` are a record's header. Bytes within a record are random. */
export function isRecordHeader(bytes: Uint8Array): boolean {
  if (bytes[0] !== APPLICATION_DATA || bytes[1] !== 3 || bytes[2] !== 3) return false
  const length = (bytes[3]! << 8) | bytes[4]!
  return bytes.length === HEADER_BYTES && length > TAG_BYTES && length <= MOST_ENCRYPTED
}

/** Copies the bytes, which most positions have none of. */
function joined(...parts: readonly Uint8Array[]): Buffer {
  return parts.every(({ length }) => length === 0) ? NOTHING : Buffer.concat(parts)
}

/** Returns the position after a KeyUpdate, of a connection that has sent and received whole records. Wipes the given one: the result does not show what was sent before. */
export function nextPosition(state: TrafficState): TrafficState {
  const write = new Protection(suiteOf(state.suite)!, state.writeSecret, state.writeSequence)
  state.writeSecret.fill(0)
  const unsent = write.sealUpdate()
  return { ...state, writeSecret: write.takeSecret(), writeSequence: 0, unsent }
}
