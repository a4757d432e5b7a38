/** Finds where the relay may insert a frame or an event into a server's stream: between two WebSocket frames or two server-sent events. */

import { FdbError } from '../errors.js'

export interface FramesRecord {
  /** The part of the frame to which the next byte belongs: a number of `Phase`. */
  phase: number
  /** In phase `length`: how many bytes of the extended length are still to come. Otherwise 0. */
  count: number
  /** In phase `payload`: how many payload bytes are still to come. In phase `length`: the number formed by the length bytes read so far. */
  left: number
  /** The kind of the current frame: a number of `Kind`; 0 between frames. */
  kind: number
}

// Other versions read these numbers in a {@link FramesRecord}: do not change them.
const Phase = { first: 0, second: 1, length: 2, payload: 3, ended: 4, lost: 5 } as const
const Kind = { data: 0, control: 1, close: 2 } as const

const FIN = 0x80
const MASK = 0x80
const CLOSE = 8
/** Continuation, text, binary, close, ping and pong. No extension in use adds an opcode. */
const OPCODES: ReadonlySet<number> = new Set([0, 1, 2, 8, 9, 10])
const MAX_CONTROL_BYTES = 125

/**
 * Follows the frames that a WebSocket server sends (RFC 6455, 5.2), to know when the relay may insert a control frame. Stores no bytes. After a
 * protocol error {@link between} stays false.
 */
export class FrameTracker {
  #phase: number = Phase.first
  #count = 0
  #left = 0
  #kind: number = Kind.data

  /** Creates a tracker that continues where another one stopped, possibly in another process. Throws ERR_FDB_FRAMES_RECORD for an impossible state. */
  static fromRecord(record: FramesRecord): FrameTracker {
    const { phase, count, left, kind } = record
    if (!isPosition(record)) {
      throw new FdbError(
        'ERR_FDB_FRAMES_RECORD',
        `no frame can have the state phase ${phase}, count ${count}, left ${left}, kind ${kind}: the record is damaged or from an incompatible version, close the connection`,
        { details: { ...record } },
      )
    }
    const tracker = new FrameTracker()
    tracker.#phase = phase
    tracker.#count = count
    tracker.#left = left
    tracker.#kind = kind
    return tracker
  }

  toRecord(): FramesRecord {
    return { phase: this.#phase, count: this.#count, left: this.#left, kind: this.#kind }
  }

  /** True between two frames, where the relay may insert one. Stays false after a close frame. */
  get between(): boolean {
    return this.#phase === Phase.first
  }

  get ended(): boolean {
    return this.#phase >= Phase.ended
  }

  follow(bytes: Uint8Array, from: number, to: number): void {
    for (let at = from; at < to; ) at = this.followFrame(bytes, at, to)
  }

  /** Advances to the end of the first frame that ends in `bytes[from, to)`. Returns that position, or `to` if no frame ends there. */
  followFrame(bytes: Uint8Array, from: number, to: number): number {
    let at = from
    while (at < to) {
      switch (this.#phase) {
        case Phase.first:
          this.#first(bytes[at++]!)
          break
        case Phase.second:
          this.#second(bytes[at++]!)
          break
        case Phase.length:
          this.#length(bytes[at++]!)
          break
        case Phase.payload: {
          const taken = Math.min(this.#left, to - at)
          this.#left -= taken
          at += taken
          break
        }
        default:
          return to
      }
      if (this.#phase === Phase.payload && this.#left === 0) {
        this.#phase = this.#kind === Kind.close ? Phase.ended : Phase.first
        this.#kind = Kind.data
        return at
      }
    }
    return at
  }

  #first(byte: number): void {
    const opcode = byte & 15
    const control = opcode >= CLOSE
    if (!OPCODES.has(opcode) || (control && (byte & FIN) === 0)) {
      this.#markLost()
      return
    }
    this.#kind = opcode === CLOSE ? Kind.close : control ? Kind.control : Kind.data
    this.#phase = Phase.second
  }

  #second(byte: number): void {
    const size = byte & 127
    // A masked frame is a protocol error: a server must not mask (RFC 6455, 5.1).
    if ((byte & MASK) !== 0 || (this.#kind !== Kind.data && size > MAX_CONTROL_BYTES)) this.#markLost()
    else if (size < 126) {
      this.#left = size
      this.#phase = Phase.payload
    } else {
      this.#count = size === 126 ? 2 : 8
      this.#phase = Phase.length
    }
  }

  #length(byte: number): void {
    const left = this.#left * 256 + byte
    if (left > Number.MAX_SAFE_INTEGER) {
      this.#markLost()
      return
    }
    this.#left = left
    if (--this.#count === 0) this.#phase = Phase.payload
  }

  #markLost(): void {
    this.#phase = Phase.lost
    this.#count = 0
    this.#left = 0
    this.#kind = Kind.data
  }
}

function isPosition({ phase, count, left, kind }: FramesRecord): boolean {
  if (![phase, count, left, kind].every(number => Number.isSafeInteger(number) && number >= 0)) return false
  if (phase > Phase.lost || kind > Kind.close) return false
  if (phase === Phase.length) return count >= 1 && count <= 8 && kind === Kind.data
  if (count !== 0) return false
  if (phase === Phase.payload) return left > 0 && (kind === Kind.data || left <= MAX_CONTROL_BYTES)
  return left === 0 && (kind === Kind.data || phase === Phase.second)
}

/** Status 1001 (going away) in two bytes, then the reason as text (RFC 6455, 7.4.1). */
const CLOSE_REASON = Buffer.from('\x03\xe9the server is going away', 'latin1')

/** The close frame that the relay sends to a WebSocket client as if it came from the server (RFC 6455, 5.5.1). */
export const CLOSE_FRAME: Buffer = Buffer.concat([Buffer.of(FIN | CLOSE, CLOSE_REASON.length), CLOSE_REASON])

const LF = 10
const CR = 13

/** Follows a stream of server-sent events, to know when the relay may insert an event: after an empty line. Lines end with CR LF, LF or CR, so four bytes suffice. */
export class EventTracker {
  /** The last four bytes, the newest in the lowest byte. A new stream starts as if an event had just ended. */
  tail: number

  constructor(tail = 0x0a0a0a0a) {
    this.tail = tail >>> 0
  }

  /** True between two events, where the relay may insert one. */
  get between(): boolean {
    const { tail } = this
    const last = tail & 0xff
    if (last !== LF && last !== CR) return false
    const before = (tail >>> (last === LF && ((tail >>> 8) & 0xff) === CR ? 16 : 8)) & 0xff
    return before === LF || before === CR
  }

  follow(bytes: Uint8Array, from: number, to: number): void {
    for (let at = Math.max(from, to - 4); at < to; at++) this.tail = ((this.tail << 8) | bytes[at]!) >>> 0
  }

  /** Advances to the end of the first event that ends in `bytes[from, to)`. Returns that position, or `to` if no event ends there. */
  followEvent(bytes: Uint8Array, from: number, to: number): number {
    for (let at = from; at < to; ) {
      this.tail = ((this.tail << 8) | bytes[at++]!) >>> 0
      if (this.between) return at
    }
    return to
  }
}

/** Returns `text` as one event: removes empty lines, which would end the event early, and adds an empty line at the end. Returns '' for text without any line. */
export function eventText(text: string): string {
  const lines = text.split(/\r\n|[\r\n]/).filter(line => line !== '')
  return lines.length === 0 ? '' : `${lines.join('\n')}\n\n`
}
