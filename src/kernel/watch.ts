import { type NativeError, native, type Poll } from './native.js'
import type { OwnedFd } from './owned.js'

export { type Poll, READABLE, WRITABLE } from './native.js'

/** Has the event loop watch a descriptor, which stays its owner's: close the watch before it. */
export function watch(fd: OwnedFd, callback: (events: number, error: NativeError | null) => void): Poll {
  return native.createPoll(fd.raw, callback)
}
