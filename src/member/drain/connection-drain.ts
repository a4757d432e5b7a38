import type { Logger } from '../../base/logger.js'
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
  readonly listeners: () => readonly Listener[]
  readonly moves: Pick<Moves, 'leave' | 'limit' | 'settled'>
  readonly onCut: (counts: DrainCounts) => void
}

/** Moves or ends the connections of this process, and closes those that remain when their time is over. */
export class ConnectionDrain {
  readonly #deps: ConnectionDrainDeps
  #cuts: readonly DrainTimer[] = []
  #lastCall: DrainTimer | null = null
  /** Called when another process serves, and the remaining connections of this one will be closed soon. */
  onLastCall: (() => void) | null = null

  constructor(deps: ConnectionDrainDeps) {
    this.#deps = deps
  }

  /** Moves connections to the process that serves, and drains those that cannot move. */
  beginMoving(): void {
    this.#deps.moves.leave(true)
  }

  /** Resolves when the last connection has moved or ended. `receiver`: another process may take connections. */
  async run(receiver: boolean): Promise<void> {
    const { moves, onCut, settings, shutdown } = this.#deps
    const listeners = this.#deps.listeners()
    moves.leave(receiver)
    moves.limit(shutdown.order.leftMs)
    if (!receiver) endIdle(listeners)
    const onStart = (cuts: readonly DrainTimer[]) => {
      this.#cuts = cuts
    }
    if (shutdown.isRetired && this.onLastCall !== null) this.#callLast(this.onLastCall)
    await drainListeners(listeners, this.#times, settings.logger, moves, onCut, onStart)
    this.#lastCall?.close()
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

type DrainingListener = Pick<
  Listener,
  'connections' | 'finish' | 'endIdle' | 'emptied' | 'cut' | 'cutReturned'
>

/** The times after which remaining connections without and with TLS are closed, in milliseconds. */
interface DrainTimes {
  readonly plain: number
  readonly tls: number
}

/**
 * @internal Resolves when the last connection has moved or ended. After `times`, closes the remaining ones and passes their counts to
 * `onCut`. `onStart` gets the timers.
 */
export async function drainListeners(
  listeners: readonly DrainingListener[],
  times: DrainTimes,
  logger: Logger,
  moves: Pick<Moves, 'settled'>,
  onCut: (counts: DrainCounts) => void,
  onStart: (cuts: readonly DrainTimer[]) => void = () => {},
): Promise<void> {
  for (const listener of listeners) listener.finish()
  const emptied = allEnded(listeners, moves)
  const report = (counts: DrainCounts, afterMs: number) => {
    if (counts.idle + counts.busy === 0) return
    logger.warn({ ...counts, afterMs }, 'connections did not end in time and were closed')
    onCut(counts)
  }
  const cut = (tls: boolean, afterMs: number) => {
    report(sumCounts(listeners.map(listener => listener.cut(tls))), afterMs)
    const cutReturned = () => report(sumCounts(listeners.map(listener => listener.cutReturned(tls))), afterMs)
    void moves.settled().then(cutReturned)
  }
  const cuts = [
    new DrainTimer(times.plain, afterMs => cut(false, afterMs)),
    new DrainTimer(times.tls, afterMs => cut(true, afterMs)),
  ]
  onStart(cuts)
  await emptied
  for (const each of cuts) each.close()
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

/** Resolves when no connection is left. Counts them again, because some may come back, and a keeper may resolve too early. */
async function allEnded(
  listeners: readonly DrainingListener[],
  moves: Pick<Moves, 'settled'>,
): Promise<void> {
  for (;;) {
    await Promise.all(listeners.map(listener => listener.emptied()))
    await moves.settled()
    if (listeners.every(listener => listener.connections === 0)) return
    await new Promise(resolve => setTimeout(resolve, DRAIN_CHECK_MS))
  }
}
