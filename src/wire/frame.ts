/**
 * The frame: what one message looks like on a Unix stream socket.
 *
 * ```
 * byte 0     0xFD                 not a character any text protocol starts with: a stranger is known at byte one
 * byte 1     1                    version of this framing, not of the messages inside
 * byte 2-3   descriptors, u16 LE
 * byte 4-7   payload bytes, u32 LE
 * byte 8-    payload
 * ```
 *
 * The descriptors of a frame travel beside its own bytes: each batch (at most 253, the kernel's limit) with at
 * least one byte of that frame. The batches of the largest frame therefore fit beside its eight header bytes.
 */
import { FdbError } from '../errors.js'
import { type OwnedFd, sendMessage } from '../kernel/index.js'

export const HEADER_BYTES = 8
export const FRAME_MAGIC = 0xfd
export const FRAMING_VERSION = 1

/** SCM_MAX_FD of the kernel. Here and not from the addon, so that framing stays pure. */
export const FDS_PER_BATCH = 253

/** No frame carries more, whatever the limits say: one batch beside each header byte. */
export const MAX_FRAME_FDS = HEADER_BYTES * FDS_PER_BATCH

export interface FrameLimits {
  /** Largest payload, bytes. Default 16 MiB. */
  payloadBytes: number
  /** Most descriptors of one frame. Default and most: 2024. */
  fds: number
  /** Most descriptors that have arrived and are not delivered yet. Default `fds` + 253. */
  queuedFds: number
}

/** One message. The payload is a copy of its own; the descriptors belong to the code that took the frame. */
export interface Frame<F> {
  payload: Buffer
  fds: F[]
}

export function frameLimits(partial: Partial<FrameLimits> = {}): FrameLimits {
  const payloadBytes = within('payloadBytes', partial.payloadBytes ?? 16 * 1024 * 1024, 0xffffffff)
  const fds = within('fds', partial.fds ?? MAX_FRAME_FDS, MAX_FRAME_FDS)
  const queuedFds = within('queuedFds', partial.queuedFds ?? fds + FDS_PER_BATCH, Number.MAX_SAFE_INTEGER)
  return { payloadBytes, fds, queuedFds }
}

function within(name: string, value: number, most: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value
  throw new FdbError('ERR_FDB_LIMIT', `limit "${name}" is ${value}: give a whole number from 0 to ${most}`)
}

/** Writes the eight header bytes at `offset`. The numbers must have passed {@link checkFrame}. */
export function writeHeader(into: Uint8Array, offset: number, payloadBytes: number, fds: number): void {
  into[offset] = FRAME_MAGIC
  into[offset + 1] = FRAMING_VERSION
  into[offset + 2] = fds & 0xff
  into[offset + 3] = fds >>> 8
  into[offset + 4] = payloadBytes & 0xff
  into[offset + 5] = (payloadBytes >>> 8) & 0xff
  into[offset + 6] = (payloadBytes >>> 16) & 0xff
  into[offset + 7] = payloadBytes >>> 24
}

/** Header and payload in one buffer. */
export function encodeFrame(payload: Uint8Array, fds: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length)
  writeHeader(bytes, 0, payload.length, fds)
  bytes.set(payload, HEADER_BYTES)
  return bytes
}

/** The same rule for sender and receiver; null when the frame is within the limits. */
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

/** Says one short message and closes the socket, without a descriptor more. A peer that does not take it at once sees the end alone. Never throws. */
export function sendLast(fd: OwnedFd, payload: Uint8Array): void {
  try {
    const bytes = encodeFrame(payload, 0)
    sendMessage(fd, bytes, 0, bytes.length, [])
  } catch {
    // It has gone.
  } finally {
    fd.close()
  }
}
