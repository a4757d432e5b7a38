import { constants } from 'node:os'
import { LONGEST_MS } from '../../base/duration.js'
import { createMoveChannel, moveChannelItems, ownEnd } from '../../connections/move-channel.js'
import { type Caller, dismiss, welcome } from '../../holder/admission.js'
import { LostProcesses } from '../../holder/lost-processes.js'
import { parseReport } from '../../holder/message-handler.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { SegmentSupply } from '../../holder/segment-set.js'
import { closeAll, trySignalTo } from '../../kernel/index.js'
import { type DrainReport, type ForcedClose, readDrainReport } from '../../operator/status-report.js'
import type { StateLog } from '../../state/state-log.js'
import { FORWARDS_WRITES, type Link } from '../../wire/link.js'
import { ChangeNotifier } from '../../wire/pending.js'
import type { Origin } from '../lifecycle/process-machine.js'
import { ForcedCloses } from '../listeners/forced-closes.js'
import type { Settings } from '../options/options.js'
import { WriteReceiver } from '../state/write-receiver.js'
import { DrainLimit, drainLimits, orderToEnd, refuseMoves } from './drain-orders.js'
import type { Moves } from './moves.js'

/** The most generations that may report at the same time. */
const MOST_GENERATIONS = 256
/** The phase of a generation that has not reported yet. */
const UNKNOWN = 'unknown'
/** The phase of a generation that waits for the end of the process that served after it. */
export const LAST = 'last'
/** The phases of generations that have no connection left, and that end, or wait for other processes or their application. */
const DONE: ReadonlySet<string> = new Set(['gone', 'retired', LAST])
/** Time beyond the limit of their drains in which older generations end. */
const ENDS_MS = 2_000
/** The link to a generation that does not acknowledge a move channel within this time is closed; then that generation reconnects. */
const CHANNEL_MS = 5_000

export interface OlderGenerationsDeps {
  readonly settings: Pick<Settings, 'drainGenerations' | 'drainTimeout' | 'logger'>
  readonly origin: Pick<Origin, 'generation' | 'serviceStartedAt'>
  readonly changes: Pick<ChangeNotifier, 'notify' | 'until'>
  readonly segmentSet: SegmentSet
  readonly moves: Pick<Moves, 'receive'>
  readonly state: StateLog
}

/** The older generations that report to this process. */
export class OlderGenerations {
  readonly #callers = new Map<Caller, DrainReport>()
  /** While the service ends: generations that have lost their connection. */
  readonly #lost: LostProcesses
  /** The connections that each process closed at the end of its drain, by pid and generation. */
  readonly #closed = new Map<string, readonly ForcedClose[]>()
  readonly #deps: OlderGenerationsDeps
  readonly #supply: SegmentSupply
  readonly #limit: DrainLimit
  readonly #reported = new ChangeNotifier()
  /** The time limit that the generations were given when the service ended; null: it does not end. */
  #endsWithin: number | null = null

  constructor(deps: OlderGenerationsDeps) {
    this.#deps = deps
    this.#limit = new DrainLimit(deps.settings.logger)
    this.#supply = new SegmentSupply(deps.segmentSet, caller => this.#drop(caller))
    this.#lost = new LostProcesses(() => deps.changes.notify())
  }

  get reports(): DrainReport[] {
    return [...this.#callers.values()].sort((a, b) => a.generation - b.generation)
  }

  /** Resolves when each generation that stands by has reported once more, or after `ms`. */
  async reported(ms: number): Promise<void> {
    const before = new Set(this.#callers.values())
    const haveAll = () =>
      [...this.#callers.values()].every(report => report.phase !== 'standby' || !before.has(report))
    await this.#reported.until(haveAll, ms)
  }

  /** The connections that older generations, including ended ones, closed at the end of their drains. */
  get closed(): readonly ForcedClose[] {
    const all = new ForcedCloses()
    for (const closed of this.#closed.values()) all.addAll(closed)
    return all.counts.closed ?? []
  }

  add(caller: Caller): void {
    const { link } = caller
    if (this.#callers.size >= MOST_GENERATIONS) {
      dismiss(caller)
      return
    }
    this.#lost.remove(caller.identity)
    this.#callers.set(caller, {
      pid: caller.pid,
      generation: caller.hello.generation ?? 0,
      phase: UNKNOWN,
      connections: 0,
    })
    link.channel.unref()
    const { origin, state } = this.#deps
    const { generation, serviceStartedAt } = origin
    const writes = new WriteReceiver(state, body => link.post(body))
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.write) writes.receive(envelope.write)
        if (envelope.heartbeat?.report) this.#recordReport(caller, envelope.heartbeat.report)
        if (envelope.moveRequest && this.#endsWithin !== null) refuseMoves(link)
        else if (envelope.moveRequest) this.#openMoveChannel(caller)
      },
      broken: () => this.#drop(caller),
      end: () => this.#drop(caller),
    })
    if (caller.hello.capabilities?.includes(FORWARDS_WRITES)) {
      const { version } = caller
      const capabilities = [FORWARDS_WRITES]
      welcome(link, { version, pid: process.pid, daemon: false, generation, serviceStartedAt, capabilities })
    }
    this.#supply.add(caller)
    this.#sendEnd(link)
  }

  /**
   * Makes all older generations close their remaining connections within `timeoutMs`, and end, because the service ends. Earlier releases ignore that. From then
   * on {@link close} does nothing until {@link ended} has resolved.
   */
  end(timeoutMs: number): void {
    this.#endsWithin = Math.ceil(Math.min(timeoutMs, LONGEST_MS))
    for (const { link } of this.#callers.keys()) this.#sendEnd(link)
    this.#deps.changes.notify()
  }

  /** Shortens the time limit if {@link end} was called. */
  shorten(timeoutMs: number): void {
    if (this.#endsWithin !== null && timeoutMs < this.#endsWithin) this.end(timeoutMs)
  }

  /** Resolves when {@link end} was not called, or no older generation has a connection left, or when their time is over. */
  async ended(): Promise<void> {
    const { changes, settings } = this.#deps
    const left = () => [
      ...this.reports.filter(({ phase }) => !DONE.has(phase)),
      ...this.#lost.all.map(({ pid }) => ({ pid })),
    ]
    // Again, because the limit may have become shorter meanwhile.
    for (let ms = this.#endsWithin; ms !== null && left().length > 0; ) {
      const within = ms
      const isOver = () => left().length === 0 || this.#endsWithin !== within
      await changes.until(isOver, Math.min(within + ENDS_MS, LONGEST_MS))
      if (this.#endsWithin === within) break
      ms = this.#endsWithin
    }
    const late = left()
    if (late.length > 0)
      settings.logger.warn(
        { older: late },
        'older versions were told to end and live on: they end with their connections',
      )
    this.#endsWithin = null
    this.close()
    this.#lost.close()
  }

  #sendEnd(link: Link): void {
    if (this.#endsWithin !== null) orderToEnd(link, this.#endsWithin)
  }

  /** Sends new segments to the older generations, because they still answer clients from the state. */
  share(): void {
    this.#supply.share()
  }

  /** Opens a move channel from `caller` to this process. If that fails, the older generation asks again, and drains meanwhile. */
  #openMoveChannel(caller: Caller): void {
    const { moves, settings } = this.#deps
    createMoveChannel({
      take: end => {
        const { channel, log } = ownEnd(end)
        moves.receive(channel, log, caller.pidfd ?? caller.pid)
      },
      give: end => caller.link.sendBundle(moveChannelItems(end), CHANNEL_MS).catch(() => this.#drop(caller)),
    }).catch(error =>
      settings.logger.debug({ err: error, pid: caller.pid }, 'no channel for connections could be opened'),
    )
  }

  /** Closes all links: the older generations then connect to the next process that serves. */
  close(): void {
    if (this.#endsWithin !== null) return
    for (const caller of [...this.#callers.keys()]) this.#drop(caller)
  }

  #recordReport(caller: Caller, text: string): void {
    const report = readDrainReport(parseReport(text), caller.pid)
    // The previous report stays.
    if (report === null) return
    const { closed = [], ...facts } = report
    this.#callers.set(caller, facts)
    const drainers = [...this.#callers].map(([{ link }, known]) => ({ ...known, link }))
    this.#limit.apply(drainers, drainLimits(this.#deps.settings))
    if (this.#endsWithin !== null) this.#deps.changes.notify()
    if (closed.length > 0) this.#noteClosed(report, closed)
    this.#reported.notify()
  }

  signal(signal: NodeJS.Signals): void {
    for (const { pidfd } of this.#callers.keys())
      if (pidfd !== null) trySignalTo(pidfd, constants.signals[signal])
  }

  #noteClosed({ pid, generation }: DrainReport, closed: readonly ForcedClose[]): void {
    const key = `${pid} ${generation}`
    if (this.#closed.size >= MOST_GENERATIONS && !this.#closed.has(key)) return
    const known = closed.filter(
      ({ kind, reason, count }) => typeof kind === 'string' && typeof reason === 'string' && count > 0,
    )
    // Each report lists all closed connections of its process, so it replaces the previous one.
    this.#closed.set(key, known)
  }

  #drop(caller: Caller): void {
    const { phase } = this.#callers.get(caller) ?? {}
    // One that has lost its connection still answers its clients.
    if (this.#endsWithin !== null && phase !== undefined && !DONE.has(phase)) this.#lost.add(caller)
    dismiss(caller)
    this.#callers.delete(caller)
    this.#supply.forget(caller)
    if (this.#endsWithin !== null) this.#deps.changes.notify()
  }
}
