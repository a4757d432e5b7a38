import { constants } from 'node:os'
import { type NativeError, native, type Poll, READABLE, type SignalWatch } from './native.js'
import { OwnedFd } from './owned.js'

/** Watches a descriptor with the event loop, without owning it: close the watch before you close the descriptor. */
export function watch(fd: OwnedFd, callback: (events: number, error: NativeError | null) => void): Poll {
  return native.createPoll(fd.raw, callback)
}

/**
 * Calls `paused` after each turn of the event loop that took longer than `ms`, by a computation, by a SIGSTOP or because nothing happened: after
 * the descriptors that were ready, before all timers. Does not keep the process alive.
 */
export function watchPauses(ms: number, paused: (pausedMs: number) => void): Pick<Poll, 'close'> {
  return native.watchPauses(ms, paused)
}

/**
 * Calls `changed` once when the folder or one of the files is removed, replaced or renamed. Ignores files that do not exist. Returns null without
 * inotify, or if this user's limit of inotify instances is reached. Does not keep the process alive.
 */
export function watchPaths(folder: string, files: readonly string[], changed: () => void): Disposable | null {
  const raw = native.watchPaths(folder, files)
  if (raw === null) return null
  const watched = onceReadable(OwnedFd.own(raw, `watch of ${folder}`), changed)
  watched.poll.unref()
  return watched
}

/** Takes ownership of the descriptor; closes it when it is readable, then calls `callback`. */
function onceReadable(fd: OwnedFd, callback: () => void): Disposable & { readonly poll: Poll } {
  const close = () => {
    poll.close()
    // The last close of an inotify instance waits for readers of the kernel's watch lists: measured 0.2 to 20 ms.
    fd.closeAside()
  }
  const poll = native.createPoll(fd.raw, () => {
    close()
    callback()
  })
  poll.start(READABLE)
  return { poll, [Symbol.dispose]: close }
}

/**
 * Calls `callback` for each such signal, before the program's own handlers, and without a listener: libraries end the process at a signal only if
 * no other code listens for it. `own`: the process has sent the signal to itself. Until `close()` the caller decides about the default action:
 * `process.listenerCount()` is the number of the program's handlers.
 */
export function watchSignal(signal: NodeJS.Signals, callback: (own: boolean) => void): SignalWatch {
  return native.watchSignal(constants.signals[signal], own => callback(own === 1))
}
