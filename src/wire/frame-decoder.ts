import { FdbError } from '../errors.js'
import {
  checkFrame,
  FRAME_MAGIC,
  FRAMING_VERSION,
  type Frame,
  type FrameLimits,
  frameLimits,
  HEADER_BYTES,
} from './frame.js'

const NOTHING = new Uint8Array(0)

/** A payload gets at most this much memory before its bytes have arrived. */
const FIRST_GRANT = 64 * 1024

/**
 * Turns what recvmsg returned, in that order, back into frames. Pure: no I/O, no clock; `F` is whatever stands
 * for a descriptor.
 *
 * Relies on the one thing the kernel promises: descriptors are delivered, in order, no later than the first byte
 * they were sent with. They may come together with bytes of earlier frames, never after their own.
 *
 * Limits are enforced on the header, before anything is allocated for the payload; memory then grows with the
 * bytes that really came. After a throw the decoder is of no more use: {@link takeFds} and close the stream.
 */
export class FrameDecoder<F> {
  readonly #limits: FrameLimits
  readonly #header = new Uint8Array(HEADER_BYTES)
  #headerBytes = 0
  #payload: Buffer | null = null
  #payloadBytes = 0
  #filled = 0
  #wanted = 0
  #chunk: Uint8Array = NOTHING
  #at = 0
  #fds: F[] = []

  constructor(limits: Partial<FrameLimits> = {}) {
    this.#limits = frameLimits(limits)
  }

  /**
   * Adds what one recvmsg returned. `bytes` is read in place until {@link next} has returned null; the
   * descriptors belong to the decoder from here on, also when this throws.
   */
  push(bytes: Uint8Array, fds: readonly F[] | null = null): void {
    this.#chunk = this.pending ? Buffer.concat([this.#chunk.subarray(this.#at), bytes]) : bytes
    this.#at = 0
    if (fds === null || fds.length === 0) return
    for (const fd of fds) this.#fds.push(fd)
    if (this.#fds.length > this.#limits.queuedFds) {
      throw new FdbError(
        'ERR_FDB_FDS_UNEXPECTED',
        `${this.#fds.length} descriptors wait for their frames, more than the limit of ${this.#limits.queuedFds}: the peer sends descriptors without frames that claim them`,
        { details: { limit: this.#limits.queuedFds, got: this.#fds.length } },
      )
    }
  }

  /** The next whole frame, or null when more bytes are needed. Throws when the peer breaks the framing. */
  next(): Frame<F> | null {
    if (this.#headerBytes < HEADER_BYTES && !this.#takeHeader()) return null
    const chunk = this.#chunk
    const take = Math.min(this.#payloadBytes - this.#filled, chunk.length - this.#at)
    if (take > 0) {
      const payload = this.#room(this.#filled + take)
      payload.set(chunk.subarray(this.#at, this.#at + take), this.#filled)
      this.#filled += take
      this.#at += take
    }
    if (this.#filled < this.#payloadBytes) {
      this.#refuseSurplus(this.#wanted)
      return null
    }
    return this.#finish()
  }

  /** Bytes pushed that {@link next} has not looked at yet. */
  get pending(): boolean {
    return this.#at < this.#chunk.length
  }

  /** A frame has begun and is not whole: an end of stream here cuts it. */
  get midFrame(): boolean {
    return this.#headerBytes > 0 || this.pending
  }

  /** Descriptors that arrived and belong to no delivered frame. The caller owns (and closes) them. */
  takeFds(): F[] {
    const fds = this.#fds
    this.#fds = []
    return fds
  }

  #takeHeader(): boolean {
    const chunk = this.#chunk
    const take = Math.min(HEADER_BYTES - this.#headerBytes, chunk.length - this.#at)
    for (let i = 0; i < take; i++) this.#header[this.#headerBytes++] = chunk[this.#at++]!
    const h = this.#header
    if (this.#headerBytes > 0 && h[0] !== FRAME_MAGIC) {
      throw new FdbError(
        'ERR_FDB_NOT_FD_BROKER',
        `the peer does not speak the fd-broker protocol: its first byte is 0x${hex(h[0]!)}, expected 0x${hex(FRAME_MAGIC)}. Is this the right control socket?`,
        { details: { expected: FRAME_MAGIC, got: h[0] } },
      )
    }
    if (this.#headerBytes > 1 && h[1] !== FRAMING_VERSION) {
      throw new FdbError(
        'ERR_FDB_NOT_FD_BROKER',
        `the peer uses framing version ${h[1]}, this side ${FRAMING_VERSION}: use releases of fd-broker that share one`,
        { details: { expected: FRAMING_VERSION, got: h[1] } },
      )
    }
    if (this.#headerBytes < HEADER_BYTES) {
      this.#refuseSurplus(this.#headerBytes === 0 ? 0 : this.#limits.fds)
      return false
    }
    this.#wanted = h[2]! | (h[3]! << 8)
    this.#payloadBytes = (h[4]! | (h[5]! << 8) | (h[6]! << 16) | (h[7]! << 24)) >>> 0
    const refusal = checkFrame(this.#payloadBytes, this.#wanted, this.#limits)
    if (refusal !== null) throw refusal
    return true
  }

  #room(bytes: number): Buffer {
    const have = this.#payload
    if (have !== null && have.length >= bytes) return have
    const grant = Math.min(
      this.#payloadBytes,
      Math.max(bytes, FIRST_GRANT, have === null ? 0 : have.length * 2),
    )
    const room = Buffer.allocUnsafe(grant)
    if (have !== null) have.copy(room, 0, 0, this.#filled)
    this.#payload = room
    return room
  }

  #finish(): Frame<F> {
    if (this.#fds.length < this.#wanted) {
      throw new FdbError(
        'ERR_FDB_FDS_MISSING',
        `a frame announced ${this.#wanted} descriptors and brought ${this.#fds.length}: they were lost on the way, or something between the two reads the socket without recvmsg`,
        { details: { expected: this.#wanted, got: this.#fds.length } },
      )
    }
    const fds = this.#wanted === this.#fds.length ? this.takeFds() : this.#fds.splice(0, this.#wanted)
    const payload = this.#payload ?? Buffer.alloc(0)
    this.#payload = null
    this.#headerBytes = 0
    this.#filled = 0
    return { payload, fds }
  }

  /** Called when all bytes so far are used up: no more descriptors can be here than the frame at hand claims. */
  #refuseSurplus(claimed: number): void {
    if (this.#fds.length <= claimed) return
    throw new FdbError(
      'ERR_FDB_FDS_UNEXPECTED',
      `${this.#fds.length} descriptors arrived where the frames claim ${claimed}: the peer breaks the protocol`,
      { details: { limit: claimed, got: this.#fds.length } },
    )
  }
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0')
}
