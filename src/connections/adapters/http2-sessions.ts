import type net from 'node:net'
import { GradualLeave } from '../../base/gradual-leave.js'
import { endHttp2Session, type Http2SessionLike } from '../../node/http2-endings.js'
import { type Observers, observe } from '../../node/observed-events.js'
import type { Leaving } from './taken-over.js'

interface OpenSession {
  readonly session: Http2SessionLike
  readonly socket: net.Socket | null
  streams: number
}

/** The time between two sessions that end: a client that comes back with TLS needs a handshake. */
const APART_MS = 5

/** The sessions of an HTTP/2 server. Each ends in two steps, see {@link endHttp2Session}. */
export class Http2Sessions {
  readonly #sessions = new Map<Http2SessionLike, OpenSession>()
  readonly #leave = new GradualLeave<OpenSession>(endHttp2Session)
  /** The socket of the session that the server makes in this turn of the event loop. */
  #connecting: net.Socket | null = null
  #leaving = false

  /** Call it before the server's own listener makes the session: at 'connection', with TLS at 'secureConnection'. */
  readonly connecting = (socket: net.Socket): void => {
    this.#connecting = socket
  }

  /** Call it after the server's own listener. */
  readonly connected = (): void => {
    this.#connecting = null
  }

  /** Observes 'session'. */
  readonly add = (session: Http2SessionLike): void => {
    const facts: OpenSession = { session, socket: this.#connecting, streams: 0 }
    this.#sessions.set(session, facts)
    const onStreamClose: Observers = new Map([['close', () => facts.streams--]])
    observe(
      session,
      new Map<string, (...args: never[]) => void>([
        [
          'stream',
          (stream: NodeJS.EventEmitter) => {
            facts.streams++
            observe(stream, onStreamClose)
          },
        ],
        [
          'close',
          () => {
            this.#sessions.delete(session)
            this.#leave.forget(facts)
          },
        ],
      ]),
    )
    if (this.#leaving) endHttp2Session(facts)
  }

  /** The open sessions, each with its number of streams. */
  get facts(): Set<{ readonly streams: number }> {
    return new Set(this.#sessions.values())
  }

  /** Ends all sessions, one after the other, within the given time, and at once those that are added later. */
  leave({ withinMs, why }: Pick<Leaving, 'withinMs' | 'why'>): void {
    const those = this.#leaving ? [] : [...this.#sessions.values()]
    this.#leaving = true
    this.#leave.within(those, why === 'ended' ? 0 : Math.min(withinMs, this.#sessions.size * APART_MS))
  }

  /** Undoes {@link leave} for sessions that are added from now on, and those that still wait. Sessions that are already ending still end. */
  resume(): void {
    this.#leaving = false
    this.#leave.stop()
  }

  destroy(): void {
    this.#leave.stop()
    for (const session of this.#sessions.keys()) session.destroy()
  }
}
