import { closeAll } from '../fd/owned.js'
import { type Caller, welcome } from '../holder/admission.js'
import type { SegmentShelf } from '../holder/segment-shelf.js'
import { SegmentSupply } from '../holder/segment-supply.js'
import { GIVE, movePair } from '../moving/pair.js'
import { FORWARDS_WRITES } from '../protocol/versions.js'
import type { StateLog } from '../state/state-log.js'
import type { DrainReport } from './draining.js'
import { type ForcedClose, ForcedCloses } from './forced-closes.js'
import type { Moves } from './moves.js'
import { WriteReceiver } from './write-receiver.js'

/** More generations than this do not drain at once. */
const MOST = 256
/** A report is a line for `status`; what is longer is none. */
const REPORT_CHARACTERS = 4096
/** It has not said yet. */
const UNKNOWN = 'unknown'
/** One that takes its segments later than this connects anew. */
const SUPPLY_MS = 5_000

/** What the process that they report to lends. */
export interface DrainHost {
  readonly shelf: SegmentShelf
  readonly moves: Moves
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
export class Drainers {
  readonly #guests = new Map<Caller, DrainReport>()
  /** By process. */
  readonly #closed = new Map<string, readonly ForcedClose[]>()
  readonly #host: DrainHost
  readonly #supply: SegmentSupply

  constructor(host: DrainHost) {
    this.#host = host
    this.#supply = new SegmentSupply(host.shelf, guest => this.#drop(guest))
  }

  get reports(): DrainReport[] {
    return [...this.#guests.values()].sort((a, b) => a.generation - b.generation)
  }

  /** What they closed at the end of their drains, those included that have ended since. */
  get closed(): readonly ForcedClose[] {
    const all = new ForcedCloses()
    for (const closed of this.#closed.values()) all.addAll(closed)
    return all.counts.closed ?? []
  }

  add(guest: Caller): void {
    const { link } = guest
    if (this.#guests.size >= MOST) {
      guest.pidfd?.close()
      link.close()
      return
    }
    this.#guests.set(guest, {
      pid: guest.pid,
      generation: guest.hello.generation ?? 0,
      phase: UNKNOWN,
      connections: 0,
    })
    link.channel.unref()
    const { state, generation, serviceStartedAt } = this.#host
    const writes = new WriteReceiver(state, body => link.tell(body))
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.write) writes.take(envelope.write)
        if (envelope.heartbeat?.report) this.#note(guest, envelope.heartbeat.report)
        if (envelope.moveRequest) this.#openWay(guest)
      },
      broken: () => this.#drop(guest),
      end: () => this.#drop(guest),
    })
    if (guest.hello.capabilities?.includes(FORWARDS_WRITES)) {
      const { version } = guest
      const capabilities = [FORWARDS_WRITES]
      welcome(link, { version, pid: process.pid, daemon: false, generation, serviceStartedAt, capabilities })
    }
    this.#supply.add(guest)
  }

  /** New segments were made: whoever answers from the state must see what is written there. */
  share(): void {
    this.#supply.share()
  }

  /** For its connections, to us. */
  #openWay(guest: Caller): void {
    try {
      const pair = movePair()
      const { give, take, log } = pair
      try {
        this.#host.moves.take(take, log.fd.dup(), guest.pidfd ?? guest.pid)
      } catch (error) {
        pair[Symbol.dispose]()
        throw error
      }
      guest.link
        .sendBundle(
          [
            { role: 'moveChannel', spec: GIVE, fd: give },
            { role: 'moveLog', fd: log.fd },
          ],
          SUPPLY_MS,
        )
        .catch(() => this.#drop(guest))
        .finally(() => closeAll([give, log.fd]))
    } catch {
      // No descriptor left, or no memory files: it asks again, and drains.
    }
  }

  /** They connect again, to whoever serves then. */
  close(): void {
    for (const guest of [...this.#guests.keys()]) this.#drop(guest)
  }

  #note(guest: Caller, text: string): void {
    if (text.length > REPORT_CHARACTERS) return
    try {
      const { generation, phase, connections, moves, closed, unfit, quiescedMs } = JSON.parse(
        text,
      ) as DrainReport
      if (typeof connections !== 'number' || typeof phase !== 'string') return
      const report = { pid: guest.pid, generation: Number(generation), phase, connections }
      const ended = typeof quiescedMs === 'number' ? { quiescedMs } : {}
      this.#guests.set(guest, { ...report, ...(moves && { moves }), ...ended, ...unfitness(unfit) })
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
    // It says so again with each report.
    this.#closed.set(key, known)
  }

  #drop(guest: Caller): void {
    const last = this.#guests.get(guest)
    if (last?.connections === 0 && last.phase !== UNKNOWN) this.#host.moves.emptied(guest.pid)
    guest.link.close()
    guest.pidfd?.close()
    this.#guests.delete(guest)
    this.#supply.forget(guest)
  }
}
