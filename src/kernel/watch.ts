import { type NativeError, native, type Poll, READABLE } from './native.js'
import { OwnedFd } from './owned.js'

export { type Poll, READABLE, WRITABLE } from './native.js'

/** Has the event loop watch a descriptor, which stays its owner's: close the watch before it. */
export function watch(fd: OwnedFd, callback: (events: number, error: NativeError | null) => void): Poll {
  return native.createPoll(fd.raw, callback)
}

/**
 * Calls `gone` once when the other side of a descriptor has gone, or it has an error: a pipe, a connection. Null: that cannot be known of it (a
 * file). Its O_NONBLOCK stays as it is. Borrows the descriptor until the watch is closed.
 */
export function watchHangup(fd: OwnedFd, gone: () => void): Disposable | null {
  const raw = native.hangupOf(fd.raw)
  if (raw === null) return null
  const over = OwnedFd.own(raw, `hangup of ${fd.label}`)
  const poll = native.createPoll(over.raw, () => {
    close()
    gone()
  })
  const close = () => {
    poll.close()
    over.close()
  }
  poll.start(READABLE)
  return { [Symbol.dispose]: close }
}
