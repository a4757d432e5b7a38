import { LONGEST_MS } from '../../base/duration.js'
import type { Logger } from '../../base/logger.js'
import type { MemberState } from '../../handoff/member-machine.js'
import type { Holder } from '../../holder/holder.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { activeResources } from '../../node/active-resources.js'
import type { DrainReport, ForcedClose } from '../../operator/status-report.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { ChangeNotifier } from '../../wire/pending.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import { RETIRED_MS } from '../lifecycle/shutdown.js'
import { type DrainCounts, sumCounts } from '../listeners/forced-closes.js'
import type { Listener } from '../listeners/listener.js'
import type { Settings } from '../options/options.js'
import type { FencedWrites } from '../state/fenced-writes.js'
import type { OwnState } from '../state/own-state.js'
import { ServingLink } from '../state/serving-link.js'
import type { Moves } from './moves.js'
import { LAST } from './older-generations.js'

/** The `top` that a retired process reports: above all epochs, so that it gets no more segments. */
const NO_SEGMENTS = 2 ** 32 - 1
/** The application hears that its connections will be closed this long before. */
const LAST_CALL_MS = 1_000
/** If the service ends, the last changes must reach the state file within this time. */
const FILE_END_MS = 10_000

/** The limit in EndDrain that stands for the receiver's own one. */
export const OWN_LIMIT = 2 ** 32 - 1

function limitOf(timeoutMs: number): number | undefined {
  return timeoutMs === OWN_LIMIT ? undefined : Math.min(timeoutMs, LONGEST_MS)
}

interface OwnDrainDeps {
  readonly settings: Pick<
    Settings,
    'control' | 'drainTimeout' | 'drainTlsTimeout' | 'logger' | 'service' | 'times' | 'versions'
  >
  readonly generation: number
  readonly machine: Pick<Machine, 'phase' | 'step'> & { readonly member: Pick<MemberState, 'link'> }
  readonly shutdown: Shutdown
  readonly changes: ChangeNotifier
  readonly segmentSet: Pick<SegmentSet, 'top'>
  readonly listeners: () => readonly Listener[]
  readonly cannotServe: Pick<CannotServe, 'report'>
  readonly leadership: Pick<Leadership, 'quiescedMs'>
  readonly moves: Pick<Moves, 'counts' | 'leave' | 'limit' | 'noReceiver' | 'open' | 'settled'>
  readonly hosting: () => Pick<
    Hosting,
    'acceptsReports' | 'acceptsWrites' | 'isHandingOver' | 'onReportsReceived' | 'released' | 'standsBy'
  > & { readonly holder: Pick<Holder, 'probationLeftMs'> | null }
  readonly state: Pick<OwnState, 'file' | 'log'>
  /** Resolves when all changes that the application has requested are made. */
  readonly changesSettled: () => Promise<void>
  readonly writes: () => Pick<FencedWrites, 'forwarder' | 'leave' | 'takeNewer'>
  /** This process must close its remaining connections within this time (undefined: as configured), and end. */
  readonly onEnd: (timeoutMs: number | undefined) => void
}

/** Drains this process's connections, and reports on the drain to the process that serves. Owns the link for the reports. */
export class OwnDrain {
  readonly #deps: OwnDrainDeps
  #link: ServingLink | null = null
  /** The member has retired, but the process still lives. */
  #lingers = false
  #isLast = false
  #closed: readonly ForcedClose[] = []
  #cuts: readonly DrainTimer[] = []
  #lastCall: DrainTimer | null = null
  /** Called when another process serves, and the remaining connections of this one will be closed soon. */
  onLastCall: (() => void) | null = null

  constructor(deps: OwnDrainDeps) {
    this.#deps = deps
  }

  /** Starts to report to the process that serves. Returns whether that process accepts forwarded changes. */
  open(): boolean {
    const { generation, moves, segmentSet, settings, writes } = this.#deps
    const hosting = this.#deps.hosting()
    const { control, service, versions, times } = settings
    if (control === null || !hosting.acceptsReports) return this.#link !== null
    this.#link ??= new ServingLink({
      control,
      service,
      versions,
      generation,
      logger: settings.logger,
      everyMs: () => (this.#lingers ? RETIRED_MS : times.heartbeat),
      report: () => this.report,
      top: () => (this.#lingers ? NO_SEGMENTS : segmentSet.top),
      adopt: (items: BundleItem[]) => {
        if (items.some(({ role }) => role === 'moveChannel')) moves.open(items)
        else writes().takeNewer(items)
      },
      connected: () => hosting.onReportsReceived?.(),
      writes: writes().forwarder,
      handle: ({ moveRequest, endDrain }) => {
        if (moveRequest) moves.noReceiver()
        if (endDrain) this.endWithin(endDrain.timeoutMs ?? 0)
      },
    })
    this.#link.start()
    return hosting.acceptsWrites
  }

  /** Handles EndDrain. */
  endWithin(timeoutMs: number): void {
    this.#deps.onEnd(limitOf(timeoutMs))
  }

  reconnect(): void {
    this.#link?.reconnect()
  }

  askForMove(): void {
    this.#link?.askForMove()
  }

  get report(): DrainReport {
    const { cannotServe, generation, leadership, machine, moves, state } = this.#deps
    const listeners = this.#deps.listeners()
    const { phase } = machine
    // Reading the position reads new records, so that a standby notices early if it cannot read them.
    if (phase === 'standby') void state.log.position
    const unfit = cannotServe.report
    return {
      pid: process.pid,
      generation,
      phase: this.#lingers ? 'retired' : this.#isLast ? LAST : phase,
      ...(this.#lingers && { keptBy: activeResources() }),
      ...this.#standby,
      connections: listeners.reduce((sum, listener) => sum + listener.connections, 0),
      moves: moves.counts.report,
      closed: this.#closed,
      quiescedMs: leadership.quiescedMs,
      ...(unfit && { unfit }),
    }
  }

  get #standby(): Pick<DrainReport, 'leaves' | 'standbySeconds'> {
    const { shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    const leftMs = hosting.holder?.probationLeftMs ?? null
    const { requestedBy } = shutdown
    return {
      ...(leftMs !== null && { standbySeconds: leftMs / 1000 }),
      ...(requestedBy !== null && { leaves: requestedBy }),
    }
  }

  /** Waits until all connections have moved or ended; then the state machine gets the event `drained`. */
  start(): void {
    const { changes, changesSettled, machine, moves, settings, shutdown, state, writes } = this.#deps
    const hosting = this.#deps.hosting()
    const listeners = this.#deps.listeners()
    const toTheEnd = writes().leave()
    shutdown.leave(hosting.released)
    // If this process leaves by itself, connections can move only to a standby or joiner that takes over, or to another worker.
    const receiver = shutdown.isRetired || shutdown.yields || hosting.standsBy || hosting.isHandingOver
    if (receiver || machine.member.link !== 'local') this.open()
    moves.leave(receiver)
    moves.limit(shutdown.order.leftMs)
    if (!receiver) endIdle(listeners)
    const onCut = ({ closed = [] }: DrainCounts) => {
      this.#closed = [...this.#closed, ...closed]
      this.#link?.reportNow()
    }
    const onStart = (cuts: readonly DrainTimer[]) => {
      this.#cuts = cuts
    }
    if (shutdown.isRetired && this.onLastCall !== null) this.#callLast(this.onLastCall)
    const drained = drainListeners(listeners, this.#times, settings.logger, moves, onCut, onStart)
    // The last clients may have made changes just before they left.
    const settled = drained.then(() => shutdown.order.untilEnd(changes, changesSettled()))
    const file = async () => {
      if (toTheEnd) await settled
      await state.file?.finish(FILE_END_MS)
    }
    void drained.then(() => this.#lastCall?.close())
    void Promise.all([settled, file()]).then(() => machine.step({ type: 'drained' }))
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

  /** Reports the resources that keep this retired process alive, for the status of the process that serves. */
  linger(): void {
    this.#lingers = true
    this.#link?.start()
  }

  /** Reports that this process only waits for the end of the process that served after it. */
  waitLast(): void {
    this.#isLast = true
    this.#link?.reportNow()
  }

  /** Sends a last report and ends the connection: this process serves again, or ends. */
  stop(): void {
    this.#link?.stop()
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

/** The interval at which the remaining connections are counted again. */
const DRAIN_CHECK_MS = 10

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
    if (tls) return
    const cutReturned = () => report(sumCounts(listeners.map(listener => listener.cutReturned())), afterMs)
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
