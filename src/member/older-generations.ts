import { createMoveChannel, moveChannelItems, ownEnd } from '../connections/move-channel.js'
import { type Caller, dismiss, welcome } from '../holder/admission.js'
import { parseReport } from '../holder/message-handler.js'
import { SegmentSupply } from '../holder/segment-set.js'
import { closeAll } from '../kernel/index.js'
import { type DrainReport, type ForcedClose, readKeptBy } from '../operator/status-report.js'
import type { StateLog } from '../state/state-log.js'
import { FORWARDS_WRITES } from '../wire/link.js'
import { ForcedCloses } from './forced-closes.js'
import type { MemberContext } from './member-context.js'
import { WriteReceiver } from './writes/receiver.js'

/** The most generations that may report at the same time. */
const MOST_GENERATIONS = 256
/** The phase of a generation that has not reported yet. */
const UNKNOWN = 'unknown'
/** The link to a generation that does not acknowledge a move channel within this time is closed; then that generation reconnects. */
const CHANNEL_MS = 5_000

export interface OlderGenerationsDeps {
  readonly shared: MemberContext
  readonly state: StateLog
}

/** Returns the field `unfit` of a report, if it is valid. */
function unfitIn(unfit: DrainReport['unfit']): Pick<DrainReport, 'unfit'> {
  if (typeof unfit?.code !== 'string' || typeof unfit.message !== 'string') return {}
  const { code, message } = unfit
  return { unfit: { code, message } }
}

/** The older generations that report to this process. */
export class OlderGenerations {
  readonly #callers = new Map<Caller, DrainReport>()
  /** The connections that each process closed at the end of its drain, by pid and generation. */
  readonly #closed = new Map<string, readonly ForcedClose[]>()
  readonly #deps: OlderGenerationsDeps
  readonly #supply: SegmentSupply

  constructor(deps: OlderGenerationsDeps) {
    this.#deps = deps
    this.#supply = new SegmentSupply(deps.shared.segmentSet, caller => this.#drop(caller))
  }

  get reports(): DrainReport[] {
    return [...this.#callers.values()].sort((a, b) => a.generation - b.generation)
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
    this.#callers.set(caller, {
      pid: caller.pid,
      generation: caller.hello.generation ?? 0,
      phase: UNKNOWN,
      connections: 0,
    })
    link.channel.unref()
    const { state, shared } = this.#deps
    const { generation, serviceStartedAt } = shared
    const writes = new WriteReceiver(state, body => link.post(body))
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.write) writes.receive(envelope.write)
        if (envelope.heartbeat?.report) this.#recordReport(caller, envelope.heartbeat.report)
        if (envelope.moveRequest) this.#openMoveChannel(caller)
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
  }

  /** Sends new segments to the older generations, because they still answer clients from the state. */
  share(): void {
    this.#supply.share()
  }

  /** Opens a move channel from `caller` to this process. If that fails, the older generation asks again, and drains meanwhile. */
  #openMoveChannel(caller: Caller): void {
    const { moves } = this.#deps.shared
    createMoveChannel({
      take: end => {
        const { channel, log } = ownEnd(end)
        moves.receive(channel, log, caller.pidfd ?? caller.pid)
      },
      give: end => caller.link.sendBundle(moveChannelItems(end), CHANNEL_MS).catch(() => this.#drop(caller)),
    }).catch(() => {})
  }

  /** Closes all links: the older generations then connect to the next process that serves. */
  close(): void {
    for (const caller of [...this.#callers.keys()]) this.#drop(caller)
  }

  #recordReport(caller: Caller, text: string): void {
    try {
      const { generation, phase, connections, moves, closed, unfit, quiescedMs, keptBy, standbySeconds } =
        parseReport(text) as DrainReport
      if (typeof connections !== 'number' || typeof phase !== 'string') return
      const report = { pid: caller.pid, generation: Number(generation), phase, connections }
      this.#callers.set(caller, {
        ...report,
        ...(moves && { moves }),
        ...(typeof quiescedMs === 'number' && { quiescedMs }),
        ...unfitIn(unfit),
        ...readKeptBy(keptBy),
        ...(typeof standbySeconds === 'number' && { standbySeconds }),
      })
      if (Array.isArray(closed) && closed.length > 0) this.#noteClosed(report, closed)
    } catch {
      // The report is no valid JSON. The previous one stays.
    }
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
    const last = this.#callers.get(caller)
    if (last?.connections === 0 && last.phase !== UNKNOWN) this.#deps.shared.moves.emptied(caller)
    dismiss(caller)
    this.#callers.delete(caller)
    this.#supply.forget(caller)
  }
}
