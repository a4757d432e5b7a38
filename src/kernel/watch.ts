import { constants } from 'node:os'
import { type NativeError, type NativeSignalWatch, native, type Poll, READABLE } from './native.js'
import { OwnedFd } from './owned.js'

/** Watches a descriptor with the event loop, without owning it: close the watch before you close the descriptor. */
export function watch(fd: OwnedFd, callback: (events: number, error: NativeError | null) => void): Poll {
  return native.createPoll(fd.raw, callback)
}

/** As {@link watch}, for a socket that other processes share: it goes on to block if it blocks, which {@link watch} ends. */
export function watchShared(
  fd: OwnedFd,
  callback: (events: number, error: NativeError | null) => void,
): Poll {
  return native.createPoll(fd.raw, callback, true)
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
  let poll: Poll | null = null
  const close = () => {
    poll?.close()
    // The last close of an inotify instance waits for readers of the kernel's watch lists: measured 0.2 to 20 ms.
    fd.closeAside()
  }
  try {
    poll = native.createPoll(fd.raw, () => {
      close()
      callback()
    })
    poll.start(READABLE)
    return { poll, [Symbol.dispose]: close }
  } catch (error) {
    close()
    throw error
  }
}

/** A watch of a signal, until `close()`. */
export interface SignalWatch {
  /** Whether a signal of another process has arrived that the event loop has not read yet. */
  readonly isDue: boolean
  /** Stops watching. If no other watch of this signal is open, a signal that has just arrived has its default action, unless the program handles it. */
  close(): void
}

type SignalCallback = (own: boolean) => void

/** The watches of one signal, which share a handle of the event loop: it has every signal that has arrived, and the newest watch gets it. */
class WatchedSignal {
  static readonly #all = new Map<NodeJS.Signals, WatchedSignal>()
  readonly #signal: NodeJS.Signals
  readonly #callbacks: SignalCallback[] = []
  readonly #native: NativeSignalWatch

  static of(signal: NodeJS.Signals): WatchedSignal {
    const watched = WatchedSignal.#all.get(signal) ?? new WatchedSignal(signal)
    WatchedSignal.#all.set(signal, watched)
    return watched
  }

  private constructor(signal: NodeJS.Signals) {
    this.#signal = signal
    this.#native = native.watchSignal(constants.signals[signal], own => this.#callbacks.at(-1)?.(own === 1))
  }

  get isDue(): boolean {
    return this.#native.undelivered() === 2
  }

  add(callback: SignalCallback): void {
    this.#callbacks.push(callback)
  }

  remove(callback: SignalCallback): void {
    const index = this.#callbacks.indexOf(callback)
    if (index < 0) return
    this.#callbacks.splice(index, 1)
    if (this.#callbacks.length > 0) return
    WatchedSignal.#all.delete(this.#signal)
    this.#native.close()
    // libuv drops it.
    if (this.#native.undelivered() > 0 && process.listenerCount(this.#signal) === 0)
      process.kill(process.pid, this.#signal)
  }
}

/**
 * Calls `callback` for each such signal, before the program's own handlers, and without a listener: libraries end the process at a signal only if
 * no other code listens for it. `own`: the process has sent the signal to itself. Until `close()` the caller decides about the default action:
 * `process.listenerCount()` is the number of the program's handlers. If a signal has several watches, the newest gets it.
 */
export function watchSignal(signal: NodeJS.Signals, callback: SignalCallback): SignalWatch {
  const watched = WatchedSignal.of(signal)
  const own: SignalCallback = sent => callback(sent)
  watched.add(own)
  return {
    get isDue() {
      return watched.isDue
    },
    close: () => watched.remove(own),
  }
}
