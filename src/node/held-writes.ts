import type { Writable } from 'node:stream'

/**
 * How long writes are held at most after the last {@link HeldWrites.hold}, while the kernel has no room for the bytes before: the client has enough to
 * read meanwhile. Longer than the time between two passes over all connections, in milliseconds.
 */
const UNSENT_MS = 600
/** How long a connection's writes are held at most when these are sent, the pause after that, and the interval at which held connections are looked at, in milliseconds. */
const HOLD_MS = 100
const PAUSE_MS = 100
const LOOK_MS = 5

/** A global symbol, because a preload and a program may each have a copy of this library. */
const HELD = Symbol.for('fd-broker.held-writes-1')

/** The streams that are corked here, besides by their programs. */
function corked(): WeakSet<Writable> {
  const holder = globalThis as { [HELD]?: WeakSet<Writable> }
  holder[HELD] ??= new WeakSet()
  return holder[HELD]
}

/** Whether a stream is corked because its connection is to leave. */
export function isHeld(stream: Writable): boolean {
  return corked().has(stream)
}

/** Lets the writes of a stream wait in it, so that what is written is known. Returns a function that lets them go on. */
export function holdWrites(stream: Writable): () => void {
  if (corked().has(stream)) return () => {}
  stream.cork()
  corked().add(stream)
  return () => {
    corked().delete(stream)
    stream.uncork()
  }
}

interface Hold {
  until: number
  isSent: boolean
  readonly ready: () => void
}

/**
 * Connections whose writes wait in the stream, so that what was written before can be sent. A program that writes again as soon as the kernel has taken
 * its bytes would otherwise keep its connection until it has written everything.
 */
export class HeldWrites<S extends Writable> {
  readonly #isSent: (socket: S) => boolean
  readonly #held = new Map<S, Hold>()
  /** When the writes of a connection that did not leave may be held again (performance.now()). */
  readonly #againAt = new WeakMap<S, number>()
  #looks: NodeJS.Timeout | undefined

  /** `isSent`: the kernel has all bytes but those that are held. */
  constructor(isSent: (socket: S) => boolean) {
    this.#isSent = isSent
  }

  /** Holds the writes of `socket` for a moment, unless that was in vain shortly before. Calls `ready` when its earlier bytes are sent. Call it again while it is to leave. */
  hold(socket: S, ready: () => void): void {
    const now = performance.now()
    const until = now + UNSENT_MS
    const held = this.#held.get(socket)
    if (held?.isSent === false) held.until = until
    if (held !== undefined || now < (this.#againAt.get(socket) ?? 0)) return
    socket.cork()
    corked().add(socket)
    this.#held.set(socket, { until, isSent: false, ready })
    this.#looks ??= setInterval(() => this.#look(), LOOK_MS).unref()
  }

  #look(): void {
    const now = performance.now()
    for (const [socket, hold] of [...this.#held]) {
      if (!hold.isSent && this.#isSent(socket)) {
        hold.isSent = true
        hold.until = now + HOLD_MS
      }
      if (socket.destroyed || now >= hold.until) this.release(socket)
      else if (hold.isSent) hold.ready()
    }
  }

  /** Lets the writes of a connection go on. */
  release(socket: S): void {
    if (!this.#held.has(socket)) return
    this.forget(socket)
    this.#againAt.set(socket, performance.now() + PAUSE_MS)
    corked().delete(socket)
    socket.uncork()
  }

  /** Forgets a connection that leaves with the bytes that it holds. */
  forget(socket: S): void {
    this.#held.delete(socket)
    if (this.#held.size > 0) return
    clearInterval(this.#looks)
    this.#looks = undefined
  }

  releaseAll(): void {
    for (const socket of [...this.#held.keys()]) this.release(socket)
  }
}
