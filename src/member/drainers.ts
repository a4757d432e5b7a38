import { GIVE, movePair } from '../connections/pair.js'
import { closeAll } from '../fd/owned.js'
import type { Guest } from '../holder/admission.js'
import type { SegmentShelf } from '../holder/segment-shelf.js'
import type { Epoch } from '../protocol/conversation.js'
import type { DrainReport } from './draining.js'
import { type ForcedClose, ForcedCloses } from './forced-closes.js'
import type { Moves } from './moves.js'

/** More generations than this do not drain at once. */
const MOST = 256
/** A report is a line for `status`; what is longer is none. */
const REPORT_CHARACTERS = 4096
/** It has not said yet. */
const UNKNOWN = 'unknown'
/** One that takes its segments later than this connects anew. */
const SUPPLY_MS = 5_000

/** The older generations that report to this process. */
export class Drainers {
  readonly #guests = new Map<Guest, DrainReport>()
  /** The highest epoch that each of them has. */
  readonly #tops = new Map<Guest, Epoch>()
  /** By process. */
  readonly #closed = new Map<string, readonly ForcedClose[]>()
  readonly #shelf: SegmentShelf
  readonly #moves: Moves

  constructor(shelf: SegmentShelf, moves: Moves) {
    this.#shelf = shelf
    this.#moves = moves
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

  add(guest: Guest): void {
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
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.heartbeat?.report) this.#note(guest, envelope.heartbeat.report)
        if (envelope.moveRequest) this.#openWay(guest)
      },
      broken: () => this.#drop(guest),
      end: () => this.#drop(guest),
    })
    this.#tops.set(guest, guest.hello.top ?? 0)
    this.#supply(guest)
  }

  /** New segments were made: whoever answers from the state must see what is written there. */
  share(): void {
    for (const guest of this.#guests.keys()) this.#supply(guest)
  }

  #supply(guest: Guest): void {
    const top = this.#tops.get(guest) ?? 0
    let newer: ReturnType<SegmentShelf['since']>
    try {
      newer = this.#shelf.since(top)
    } catch {
      // No descriptor left: it connects anew, and asks again.
      this.#drop(guest)
      return
    }
    const { items, release } = newer
    if (items.length === 0) return
    this.#tops.set(guest, Math.max(top, ...items.map(({ epoch = 0 }) => epoch)))
    guest.link
      .sendBundle(items, SUPPLY_MS)
      .catch(() => this.#drop(guest))
      .finally(release)
  }

  /** For its connections, to us. */
  #openWay(guest: Guest): void {
    try {
      const pair = movePair()
      const { give, take, log } = pair
      try {
        this.#moves.take(take, log.fd.dup(), guest.pidfd ?? guest.pid)
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

  #note(guest: Guest, text: string): void {
    if (text.length > REPORT_CHARACTERS) return
    try {
      const { generation, phase, connections, moves, closed } = JSON.parse(text) as DrainReport
      if (typeof connections !== 'number' || typeof phase !== 'string') return
      const report = { pid: guest.pid, generation: Number(generation), phase, connections }
      this.#guests.set(guest, moves === undefined ? report : { ...report, moves })
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

  #drop(guest: Guest): void {
    const last = this.#guests.get(guest)
    if (last?.connections === 0 && last.phase !== UNKNOWN) this.#moves.emptied(guest.pid)
    guest.link.close()
    guest.pidfd?.close()
    this.#guests.delete(guest)
    this.#tops.delete(guest)
  }
}
