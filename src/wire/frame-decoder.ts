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

/** The decoder allocates at most this much for a payload before its bytes arrive. */
const FIRST_GRANT = 64 * 1024

/**
 * Decodes the results of successive recvmsg calls into frames. Does no I/O and uses no clock; `F` is the type of a descriptor.
 *
 * Relies on the kernel's guarantee that descriptors arrive in order, and no later than the first byte that they were sent with, but may
 * arrive together with bytes of earlier frames.
 *
 * The decoder checks the limits on the header, before it allocates memory for the payload; the memory then grows with the received bytes. If
 * a method throws, call {@link takeFds} and close the stream: the decoder cannot continue.
 */
export class FrameDecoder<F> {
  #limits: FrameLimits
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

  /** Sets the limits for frames whose header has not been read yet. */
  set limits(limits: Partial<FrameLimits>) {
    this.#limits = frameLimits(limits)
  }

  /** Bytes of memory that the decoder holds. */
  get heldBytes(): number {
    return (this.#payload?.length ?? 0) + (this.#chunk.length - this.#at)
  }

  /** Adds the result of one recvmsg. Reads `bytes` in place until {@link next} returns null. Owns the descriptors, also if it throws. */
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

  /** Returns the next whole frame, or null if more bytes are needed. Throws if the peer violates the framing. */
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

  /** Whether {@link push} added bytes that {@link next} has not read yet. */
  get pending(): boolean {
    return this.#at < this.#chunk.length
  }

  /** Whether a frame has begun and is incomplete: the end of the stream would cut it. */
  get midFrame(): boolean {
    return this.#headerBytes > 0 || this.pending
  }

  /** Returns the received descriptors that belong to no delivered frame; the caller owns them. */
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
        `a frame announced ${this.#wanted} descriptors and brought ${this.#fds.length}: the missing ones were lost on the way, or a program between the two processes forwards the bytes without the descriptors`,
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

  /** Throws if more descriptors have arrived than the current frame announces. Valid only when all bytes are consumed. */
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
