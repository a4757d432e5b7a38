/**
 * The format of one message on a Unix stream socket.
 *
 * ```
 * byte 0     0xFD                 no text protocol starts with this byte, so a wrong first byte identifies a foreign peer
 * byte 1     1                    version of this framing, not of the messages inside
 * byte 2-3   descriptors, u16 LE
 * byte 4-7   payload bytes, u32 LE
 * byte 8-    payload
 * ```
 *
 * Each batch of descriptors (at most 253, the kernel's limit) travels with at least one byte of its own frame. A frame
 * has at most eight batches, so that the eight header bytes suffice for them.
 */
import { FdbError } from '../errors.js'
import { MAX_FDS_PER_MESSAGE, type OwnedFd, sendMessage } from '../kernel/index.js'

export const HEADER_BYTES = 8
export const FRAME_MAGIC = 0xfd
export const FRAMING_VERSION = 1

/** Hard limit of descriptors per frame: each batch travels with a byte of its own, and only the header's eight bytes are in every frame. */
const MAX_FRAME_FDS = HEADER_BYTES * MAX_FDS_PER_MESSAGE

export interface FrameLimits {
  /** Limit of a payload. Default 16 MiB. */
  payloadBytes: number
  /** Limit of descriptors per frame. Default and maximum 2024. */
  fds: number
  /** Limit of received descriptors that are not delivered yet. Default `fds` + 253. */
  queuedFds: number
}

/** One message. The receiver owns the payload, which is a copy, and the descriptors. */
export interface Frame<F> {
  payload: Buffer
  fds: F[]
}

/** Limits for another user's process that has not shown yet that it may do more. */
export const SMALL_FRAMES: FrameLimits = { payloadBytes: 64 * 1024, fds: 16, queuedFds: 16 }

export function frameLimits(partial: Partial<FrameLimits> = {}): FrameLimits {
  const payloadBytes = within('payloadBytes', partial.payloadBytes ?? 16 * 1024 * 1024, 0xffffffff)
  const fds = within('fds', partial.fds ?? MAX_FRAME_FDS, MAX_FRAME_FDS)
  const queuedFds = within(
    'queuedFds',
    partial.queuedFds ?? fds + MAX_FDS_PER_MESSAGE,
    Number.MAX_SAFE_INTEGER,
  )
  return { payloadBytes, fds, queuedFds }
}

function within(name: string, value: number, most: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value
  throw new FdbError('ERR_FDB_LIMIT', `limit "${name}" is ${value}: give a whole number from 0 to ${most}`)
}

/** Writes the header into the first eight bytes. The caller has checked both numbers with {@link checkFrame}. */
export function writeHeader(into: Buffer, payloadBytes: number, fds: number): void {
  into[0] = FRAME_MAGIC
  into[1] = FRAMING_VERSION
  into.writeUInt16LE(fds, 2)
  into.writeUInt32LE(payloadBytes, 4)
}

/** Returns header and payload in one buffer. */
export function encodeFrame(payload: Uint8Array, fds: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length)
  writeHeader(bytes, payload.length, fds)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

/** Returns null if the frame is within the limits. Sender and receiver apply the same rule. */
export function checkFrame(payloadBytes: number, fds: number, limits: FrameLimits): FdbError | null {
  if (payloadBytes > limits.payloadBytes) {
    return new FdbError(
      'ERR_FDB_FRAME_TOO_LARGE',
      `frame of ${payloadBytes} payload bytes exceeds the limit of ${limits.payloadBytes}: split the message or raise limits.payloadBytes on both sides`,
      { details: { limit: limits.payloadBytes, got: payloadBytes } },
    )
  }
  if (fds > limits.fds) {
    return new FdbError(
      'ERR_FDB_FRAME_TOO_MANY_FDS',
      `frame with ${fds} descriptors exceeds the limit of ${limits.fds}: send them in several messages or raise limits.fds (at most ${MAX_FRAME_FDS})`,
      { details: { limit: limits.fds, got: fds } },
    )
  }
  return null
}

/** Sends one short message and closes the socket; needs no further descriptor. If the socket's buffer is full, the peer sees only the close. Never throws. */
export function sendLast(fd: OwnedFd, payload: Uint8Array): void {
  try {
    const bytes = encodeFrame(payload, 0)
    sendMessage(fd, bytes, 0, bytes.length, [])
  } catch {
    // The peer has closed the connection.
  } finally {
    fd.close()
  }
}
