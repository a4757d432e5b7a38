import { type OwnedFd, sendMessage } from '../kernel/index.js'
import { encodeFrame } from './frame.js'

/** Says one short message and closes the socket, without a descriptor more. A peer that does not take it at once sees the end alone. Never throws. */
export function sayLast(fd: OwnedFd, payload: Uint8Array): void {
  try {
    const bytes = encodeFrame(payload, 0)
    sendMessage(fd, bytes, 0, bytes.length, [])
  } catch {
    // It has gone.
  } finally {
    fd.close()
  }
}
