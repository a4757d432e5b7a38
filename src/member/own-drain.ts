import type { Logger } from '../base/logger.js'
import type { DrainReport, ForcedClose } from '../operator/status-report.js'
import type { BundleItem } from '../wire/bundle.js'
import type { FencedWrites } from './fenced-writes.js'
import { addedUp, type DrainCounts } from './forced-closes.js'
import type { Hosting } from './hosting.js'
import type { Leadership } from './leadership.js'
import type { MemberContext } from './member-context.js'
import type { Moves } from './moves.js'
import type { OwnState } from './own-state.js'
import { ServingLink } from './serving-link.js'
import { RETIRED_MS, watchDoubledIntervals, whatKeeps } from './shutdown.js'

/** A process that has retired has all the segments that it needs: none. */
const NO_SEGMENTS = 2 ** 32 - 1
/** Time for the last changes to reach the state file, when this process leaves without a successor. */
const FILE_END_MS = 10_000

export interface OwnDrainDeps {
  readonly shared: MemberContext
  readonly hosting: () => Hosting
  readonly state: OwnState
  /** Resolves when no change of the application waits any more. */
  readonly settled: () => Promise<void>
  readonly writes: () => FencedWrites
  readonly moves: Moves
  readonly leadership: Leadership
}

/** The end of this process's connections, and the reports on it to the process that serves. Owns the connection for these. */
export class OwnDrain {
  readonly #deps: OwnDrainDeps
  #link: ServingLink | null = null
  /** The process has retired and lives on. */
  #lingers = false
  /** Connections that were closed at the end of the drain. */
  #closed: readonly ForcedClose[] = []

  constructor(deps: OwnDrainDeps) {
    this.#deps = deps
  }

  /** Tells the process that serves how many connections are left here. Returns false if no process takes changes of this one. */
  open(): boolean {
    const { hosting, moves, shared, writes } = this.#deps
    const { generation, settings, segmentSet } = shared
    const { control, service, versions, times } = settings
    if (control === null || !hosting().hearsReports) return this.#link !== null
    this.#link ??= new ServingLink({
      control,
      service,
      versions,
      generation,
      everyMs: () => (this.#lingers ? RETIRED_MS : times.heartbeat),
      report: () => this.report,
      top: () => (this.#lingers ? NO_SEGMENTS : segmentSet.top),
      adopt: (items: BundleItem[]) => {
        if (items.some(({ role }) => role === 'moveChannel')) moves.open(items)
        else writes().takeNewer(items)
      },
      connected: () => hosting().reported?.(),
      writes: writes().forwarder,
      handle: ({ moveRequest }) => moveRequest && moves.nobodyTakes(),
    })
    this.#link.start()
    return hosting().takesWrites
  }

  reconnect(): void {
    this.#link?.reconnect()
  }

  askForMove(): void {
    this.#link?.askForMove()
  }

  get report(): DrainReport {
    const { leadership, moves, shared, state } = this.#deps
    const { generation, listeners, machine, unfitness } = shared
    const { phase } = machine
    // Whether what is written now can be read here is found by reading it, and not only when it is too late.
    if (phase === 'standby') void state.log.position
    const unfit = unfitness.report
    return {
      pid: process.pid,
      generation,
      phase: this.#lingers ? 'retired' : phase,
      ...(this.#lingers && { keptBy: whatKeeps() }),
      ...this.#standby,
      connections: listeners.reduce((sum, listener) => sum + listener.connections, 0),
      moves: moves.counts.report,
      closed: this.#closed,
      quiescedMs: leadership.quiescedMs,
      ...(unfit && { unfit }),
    }
  }

  get #standby(): Pick<DrainReport, 'leaves' | 'standbySeconds'> {
    const { hosting, shared } = this.#deps
    const left = hosting().holder?.probationLeftMs ?? null
    const asked = shared.shutdown?.asked ?? null
    return { ...(left !== null && { standbySeconds: left / 1000 }), ...(asked !== null && { leaves: asked }) }
  }

  /** Waits for the end of all connections, which the machine hears of. */
  start(): void {
    const { hosting, moves, settled: changed, shared, state, writes } = this.#deps
    const { shutdown, listeners, machine, settings } = shared
    const toTheEnd = writes().leave()
    if (!shutdown.closing) {
      shutdown.leave(hosting().released)
      watchDoubledIntervals(settings.logger, () => machine.phase === 'serving')
    }
    if (!shutdown.closing || machine.member.link !== 'local') this.open()
    // A process that closes while it serves has no receiver for its connections, unless another stands by, or serves beside it.
    const receiver = shutdown.isRetired || !shutdown.closing || shutdown.yields || hosting().standsBy
    moves.leave(receiver)
    if (!receiver) endIdle(listeners)
    const drained = drainListeners(listeners, this.#times, settings.logger, moves, ({ closed = [] }) => {
      this.#closed = [...this.#closed, ...closed]
      this.#link?.now()
    })
    // Changes of the clients that have just left.
    const settled = drained.then(() => changed())
    const file = async () => {
      if (toTheEnd) await settled
      await state.file?.finish(FILE_END_MS)
    }
    void Promise.all([settled, file()]).then(() => machine.step({ type: 'drained' }))
  }

  /** The process has retired, and something keeps it: the process that serves shows it in its status. */
  linger(): void {
    this.#lingers = true
    this.#link?.start()
  }

  /** This process serves again, or has ended: says once more how it is. */
  stop(): void {
    this.#link?.stop()
  }

  /** The drain does not wait longer for TLS if the service ends. */
  get #times(): DrainTimes {
    const { shutdown, settings } = this.#deps.shared
    const plain = shutdown.drainTimeout
    return {
      plain,
      tls: shutdown.closing && !shutdown.yields ? plain : Math.max(plain, settings.drainTlsTimeout),
    }
  }
}

/** It is looked again so soon whether all have gone. */
const AGAIN_MS = 10

/** A listener whose connections are to end. */
export interface Draining {
  readonly connections: number
  /** The listener does not come back. */
  finish(): void
  /** The service ends: closes connections that wait for a next request. */
  endIdle(): void
  emptied(): Promise<void>
  /** Closes what is left. */
  cut(tls: boolean): DrainCounts
}

/** Moves connections to another process, and may bring them back. */
interface Moving {
  /** Resolves when no connection is between two processes. */
  settled(): Promise<void>
}

/** Milliseconds until connections are closed that have neither moved nor ended. */
interface DrainTimes {
  readonly plain: number
  /** Over TLS, where none can move. */
  readonly tls: number
}

/** Waits until the last connection has moved or ended; after `times` closes what is left, and tells `onCut` what that was. */
export async function drainListeners(
  listeners: readonly Draining[],
  times: DrainTimes,
  logger: Logger,
  moves: Moving,
  onCut: (counts: DrainCounts) => void,
): Promise<void> {
  for (const listener of listeners) listener.finish()
  const emptied = allGone(listeners, moves)
  const cut = (tls: boolean, afterMs: number) => {
    const counts = addedUp(listeners.map(listener => listener.cut(tls)))
    if (counts.idle + counts.busy === 0) return
    logger.warn({ ...counts, afterMs }, 'connections did not end in time and were closed')
    onCut(counts)
  }
  const plain = setTimeout(() => cut(false, times.plain), times.plain)
  const tls = setTimeout(() => cut(true, times.tls), times.tls)
  await emptied
  clearTimeout(plain)
  clearTimeout(tls)
}

/** The service ends: connections between two requests have nothing to wait for. Bytes that have arrived on them are read before. */
function endIdle(listeners: readonly Draining[]): void {
  // The second one comes when the kernel was asked once more.
  setImmediate(() => setImmediate(() => listeners.forEach(listener => void listener.endIdle())))
}

/** Connections between two processes may come back. A keeper of the application may say that it is empty while it is not. */
async function allGone(listeners: readonly Draining[], moves: Moving): Promise<void> {
  for (;;) {
    await Promise.all(listeners.map(listener => listener.emptied()))
    await moves.settled()
    if (listeners.every(listener => listener.connections === 0)) return
    await new Promise(resolve => setTimeout(resolve, AGAIN_MS))
  }
}
