import type { Shutdown } from '../lifecycle/shutdown.js'
import { type DrainCounts, sumCounts } from '../listeners/forced-closes.js'
import type { Listener } from '../listeners/listener.js'
import type { Settings } from '../options/options.js'
import type { Moves } from './moves.js'

/** The application hears that its connections will be closed this long before. */
const LAST_CALL_MS = 1_000
/** The interval at which the remaining connections are counted again. */
const DRAIN_CHECK_MS = 10

interface ConnectionDrainDeps {
  readonly settings: Pick<Settings, 'drainTimeout' | 'drainTlsTimeout' | 'logger'>
  readonly shutdown: Pick<Shutdown, 'isRetired' | 'order'>
  /** @internal */
  readonly listeners: () => readonly DrainingListener[]
  readonly moves: Pick<Moves, 'leave' | 'limit' | 'settled' | 'whenArrived'>
  readonly onCut: (counts: DrainCounts) => void
  /** Called when the last connection has moved or ended, before the last changes are awaited. */
  readonly onEnded: () => void
}

/** Moves or ends the connections of this process, and closes those that remain when their time is over. */
export class ConnectionDrain {
  readonly #deps: ConnectionDrainDeps
  readonly #cuts: DrainTimer[] = []
  #lastCall: DrainTimer | null = null
  readonly #work = new Set<() => boolean>()
  #isOver = false
  /** Called when another process serves, and the remaining connections of this one will be closed soon. */
  onLastCall: (() => void) | null = null

  constructor(deps: ConnectionDrainDeps) {
    this.#deps = deps
  }

  /** Moves connections to the process that serves, and drains those that cannot move. */
  beginMoving(): void {
    this.#deps.moves.leave(true)
  }

  /**
   * This process also drains while `isBusy` returns true, at most for the time that connections without TLS have: clients whose connections have moved still
   * get something from it. Returns a function that ends this.
   */
  stayWhile(isBusy: () => boolean): () => void {
    this.#work.add(isBusy)
    return () => void this.#work.delete(isBusy)
  }

  /** Resolves when the last connection has moved or ended, and what {@link stayWhile} knows. `receiver`: another process may take connections. */
  async run(receiver: boolean): Promise<void> {
    this.#isOver = false
    const { moves, shutdown } = this.#deps
    const listeners = this.#deps.listeners()
    moves.leave(receiver)
    moves.limit(shutdown.order.leftMs)
    if (!receiver) this.#endIdle()
    if (shutdown.isRetired && this.onLastCall !== null) this.#callLast(this.onLastCall)
    // A server without a connection emits 'close' then.
    moves.whenArrived(() => listeners.forEach(listener => void listener.finish()))
    const isBusy = () => !this.#isOver && [...this.#work].some(each => each())
    const ended = allEnded(listeners, moves, isBusy)
    const { plain, tls } = this.#times
    const cuts = [
      new DrainTimer(plain, afterMs => {
        this.#isOver = true
        this.#cut(listeners, false, afterMs)
      }),
      new DrainTimer(tls, afterMs => this.#cut(listeners, true, afterMs)),
    ]
    this.#cuts.push(...cuts)
    await ended
    this.#deps.onEnded()
    for (const timer of [...cuts, this.#lastCall]) timer?.close()
  }

  /** No process will take the connections: closes those between two requests. For a process that drains, or will. */
  endService(): void {
    this.#deps.moves.leave(false)
    this.#endIdle()
  }

  /** Closes connections between two requests, also those that are on their way to this process. */
  #endIdle(): void {
    void this.#deps.moves.settled().then(() => endIdle(this.#deps.listeners()))
  }

  /** Closes the remaining connections with or without TLS, also those that come back from a move. */
  #cut(listeners: readonly DrainingListener[], tls: boolean, afterMs: number): void {
    const report = (cut: (listener: DrainingListener) => DrainCounts) => {
      const counts = sumCounts(listeners.map(cut))
      if (counts.idle + counts.busy === 0) return
      const facts = { ...counts, afterMs }
      this.#deps.settings.logger.warn(facts, 'connections did not end in time and were closed')
      this.#deps.onCut(counts)
    }
    report(listener => listener.cut(tls))
    void this.#deps.moves.settled().then(() => report(listener => listener.cutReturned(tls)))
  }

  /** Calls `call` before the last connections are closed: those with TLS have more time. */
  #callLast(call: () => void): void {
    const hasTls = () => this.#deps.listeners().some(listener => listener.hasTlsConnections)
    this.#lastCall = new DrainTimer(beforeCut(this.#times.plain), () => {
      // Read now: an order to end since then gives TLS no more time than others.
      const { plain, tls } = this.#times
      if (plain < tls && hasTls()) this.#lastCall = new DrainTimer(beforeCut(tls) - beforeCut(plain), call)
      else call()
    })
  }

  /** This process was ordered to end earlier than before: the order also applies to a drain under way. */
  shorten(): void {
    const { moves, shutdown } = this.#deps
    const { leftMs } = shutdown.order
    moves.limit(leftMs)
    this.#lastCall?.shorten(beforeCut(leftMs))
    for (const cut of this.#cuts) cut.shorten(leftMs)
  }

  /** After an order to end TLS connections get no more time than others. */
  get #times(): DrainTimes {
    const { settings, shutdown } = this.#deps
    const { isGiven, leftMs } = shutdown.order
    if (isGiven) return { plain: leftMs, tls: leftMs }
    const { drainTimeout: plain, drainTlsTimeout } = settings
    return { plain, tls: Math.max(plain, drainTlsTimeout) }
  }
}

/** @internal */
interface DrainingListener
  extends Pick<Listener, 'connections' | 'finish' | 'endIdle' | 'emptied' | 'cut' | 'cutReturned'> {
  readonly hasTlsConnections: boolean
}

/** The times after which remaining connections without and with TLS are closed, in milliseconds. */
interface DrainTimes {
  readonly plain: number
  readonly tls: number
}

function beforeCut(ms: number): number {
  return ms - Math.min(ms / 2, LAST_CALL_MS)
}

/** Calls a function once when a time of the drain is over, which orders to end can shorten. */
class DrainTimer {
  readonly #act: (afterMs: number) => void
  readonly #startedAt = performance.now()
  #until = Number.POSITIVE_INFINITY
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number, act: (afterMs: number) => void) {
    this.#act = act
    this.shorten(ms)
  }

  /** Sets the remaining time, unless it is longer than the present one. */
  shorten(ms: number): void {
    const now = performance.now()
    if (now + ms >= this.#until) return
    this.#until = now + ms
    clearTimeout(this.#timer)
    const afterMs = Math.round(now - this.#startedAt + ms)
    this.#timer = setTimeout(() => this.#act(afterMs), ms)
  }

  /** Idempotent. */
  close(): void {
    this.#until = 0
    clearTimeout(this.#timer)
  }
}

/** Closes connections between two requests, because the service ends. First lets Node read requests that have already arrived. */
function endIdle(listeners: readonly DrainingListener[]): void {
  // The event loop reads from the sockets between the two immediates.
  setImmediate(() => setImmediate(() => listeners.forEach(listener => void listener.endIdle())))
}

/** Resolves when no connection and no other work is left. Counts the connections again, because some may come back, and a keeper may resolve too early. */
async function allEnded(
  listeners: readonly DrainingListener[],
  moves: Pick<Moves, 'settled'>,
  isBusy: () => boolean,
): Promise<void> {
  for (;;) {
    await Promise.all(listeners.map(listener => listener.emptied()))
    await moves.settled()
    if (listeners.every(listener => listener.connections === 0) && !isBusy()) return
    await new Promise(resolve => setTimeout(resolve, DRAIN_CHECK_MS))
  }
}
