import { createMigrationChannel, migrationItems, ownEnd } from '../connections/migration-channel.js'
import { type Caller, dismiss, welcome } from '../holder/admission.js'
import { parseReport } from '../holder/message-handler.js'
import type { SegmentSet } from '../holder/segment-set.js'
import { SegmentSupply } from '../holder/segment-supply.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { type DrainReport, type ForcedClose, readKeptBy } from '../operator/status-report.js'
import type { StateLog } from '../state/state-log.js'
import { FORWARDS_WRITES } from '../wire/link.js'
import { ForcedCloses } from './forced-closes.js'
import { WriteReceiver } from './writes/receiver.js'

/** More generations than this do not drain at once. */
const MOST = 256
/** The phase of a generation that has not said it yet. */
const UNKNOWN = 'unknown'
/** A generation that takes its segments later than this connects anew. */
const SUPPLY_MS = 5_000

/** The parts of the process that they report to. */
export interface ReportedTo {
  readonly segmentSet: SegmentSet
  readonly moves: {
    /** Takes channel and log, also when it throws; borrows `sender`, which is a pid where the kernel has no pidfds. */
    adopt(channel: OwnedFd, log: OwnedFd, sender: OwnedFd | number): void
    /** A process that had no connection left has ended. */
    emptied(process: { readonly pid: number; readonly pidfd: OwnedFd | null }): void
  }
  readonly state: StateLog
  readonly generation: number
  readonly serviceStartedAt: number
}

function unfitness(told: DrainReport['unfit']): Pick<DrainReport, 'unfit'> {
  if (typeof told?.code !== 'string' || typeof told.message !== 'string') return {}
  const { code, message } = told
  return { unfit: { code, message } }
}

/** The older generations that report to this process. */
export class OlderGenerations {
  readonly #callers = new Map<Caller, DrainReport>()
  /** Closed connections, by process. */
  readonly #closed = new Map<string, readonly ForcedClose[]>()
  readonly #to: ReportedTo
  readonly #supply: SegmentSupply

  constructor(to: ReportedTo) {
    this.#to = to
    this.#supply = new SegmentSupply(to.segmentSet, caller => this.#drop(caller))
  }

  get reports(): DrainReport[] {
    return [...this.#callers.values()].sort((a, b) => a.generation - b.generation)
  }

  /** Connections that they closed at the end of their drains, with those of generations that have ended since. */
  get closed(): readonly ForcedClose[] {
    const all = new ForcedCloses()
    for (const closed of this.#closed.values()) all.addAll(closed)
    return all.counts.closed ?? []
  }

  add(caller: Caller): void {
    const { link } = caller
    if (this.#callers.size >= MOST) {
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
    const { state, generation, serviceStartedAt } = this.#to
    const writes = new WriteReceiver(state, body => link.post(body))
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.write) writes.receive(envelope.write)
        if (envelope.heartbeat?.report) this.#recordReport(caller, envelope.heartbeat.report)
        if (envelope.moveRequest) this.#openMigrationChannel(caller)
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

  /** New segments were made: generations that answer from the state must see what is written there. */
  share(): void {
    this.#supply.share()
  }

  /** Opens a way for its connections, to us. Without descriptors or memory files it asks again, and drains. */
  #openMigrationChannel(caller: Caller): void {
    const { moves } = this.#to
    createMigrationChannel({
      take: end => {
        const { channel, log } = ownEnd(end)
        moves.adopt(channel, log, caller.pidfd ?? caller.pid)
      },
      give: end => caller.link.sendBundle(migrationItems(end), SUPPLY_MS).catch(() => this.#drop(caller)),
    }).catch(() => {})
  }

  /** The generations connect again, to the next process that serves. */
  close(): void {
    for (const caller of [...this.#callers.keys()]) this.#drop(caller)
  }

  #recordReport(caller: Caller, text: string): void {
    try {
      const { generation, phase, connections, moves, closed, unfit, quiescedMs, keptBy, standbySeconds } =
        parseReport(text) as DrainReport
      if (typeof connections !== 'number' || typeof phase !== 'string') return
      const report = { pid: caller.pid, generation: Number(generation), phase, connections }
      const ended = typeof quiescedMs === 'number' ? { quiescedMs } : {}
      const kept = {
        ...readKeptBy(keptBy),
        ...(typeof standbySeconds === 'number' && { standbySeconds }),
      }
      this.#callers.set(caller, {
        ...report,
        ...(moves && { moves }),
        ...ended,
        ...unfitness(unfit),
        ...kept,
      })
      if (Array.isArray(closed) && closed.length > 0) this.#noteClosed(report, closed)
    } catch {
      // Not a report: the last one stands.
    }
  }

  #noteClosed({ pid, generation }: DrainReport, closed: readonly ForcedClose[]): void {
    const key = `${pid} ${generation}`
    if (this.#closed.size >= MOST && !this.#closed.has(key)) return
    const known = closed.filter(
      ({ kind, reason, count }) => typeof kind === 'string' && typeof reason === 'string' && count > 0,
    )
    // Each report says so again.
    this.#closed.set(key, known)
  }

  #drop(caller: Caller): void {
    const last = this.#callers.get(caller)
    if (last?.connections === 0 && last.phase !== UNKNOWN) this.#to.moves.emptied(caller)
    dismiss(caller)
    this.#callers.delete(caller)
    this.#supply.forget(caller)
  }
}
