import type { Logger } from '../base/logger.js'
import type { MemberProcess } from '../daemon/service/service-operations.js'
import { HeartbeatSilence } from '../holder/stuck.js'
import { killVerified } from '../os/process-identity.js'
import type { WorkerSlot } from './worker-slot.js'

const HUNG_CHECK_MS = 250
/** A worker sends a heartbeat every 250 ms. After this time without one it is hung, until it sends the next. */
const SILENT_MS = 2_000
/** If a worker's successor hangs within this time, it gets twice the limit: it probably hangs for the same reason. */
const SOON_MS = 60_000
const MOST_DOUBLINGS = 4

type WorkerProcess = NonNullable<WorkerSlot['owner']>

interface HungReplacement {
  readonly process: WorkerProcess
  readonly at: number
  /** How often the limit was doubled, because processes of this worker hung soon after their start. */
  readonly doublings: number
}

/** A process whose silence counts from the moment at which this main process began to wait for it. */
interface MissingProcess {
  readonly heartbeatAt: number
  readonly sendsHeartbeats: true
  readonly isKilled: boolean
}

export interface HungDeps {
  readonly logger: Logger
  /** A worker that sends no heartbeat for so many milliseconds is replaced; null: never. */
  readonly limitMs: number | null
  slots(): readonly WorkerSlot[]
  /** Called when a worker starts or stops to hang. */
  changed(): void
}

/**
 * Detects hung workers: processes that run but send no heartbeats. At once other workers accept on a hung worker's listeners, and after a
 * limit a successor replaces it. A replaced process that sends heartbeats again drains as usual; if it does not, it is killed.
 */
export class HungWorkers {
  readonly #deps: HungDeps
  readonly #silence = new HeartbeatSilence(HUNG_CHECK_MS)
  readonly #hung = new Map<WorkerSlot, WorkerProcess>()
  readonly #replaced = new Map<WorkerSlot, HungReplacement>()
  /** Processes that were replaced because they hung, and that may have to be killed. */
  readonly #replacedProcesses = new Map<WorkerProcess, WorkerSlot>()
  readonly #killed = new WeakSet<WorkerProcess>()
  /** Processes that have not reconnected to this main process, each with the time since when it is awaited. */
  readonly #missing = new Map<string, MissingProcess>()

  constructor(deps: HungDeps) {
    this.#deps = deps
  }

  start(): void {
    this.#silence.start(readUntil => this.#judge(readUntil))
  }

  stop(): void {
    this.#silence.stop()
  }

  #judge(readUntil: number): void {
    let changed = false
    const missing = new Map(this.#missing)
    this.#missing.clear()
    for (const slot of this.#deps.slots()) {
      const { owner } = slot
      const ms = owner === null ? this.#awaitMissing(slot, missing) : this.#silence.of(owner, readUntil)
      const isHung = ms > SILENT_MS
      if (isHung !== slot.isHung) {
        changed = true
        slot.isHung = isHung
        this.#reportHung(slot)
      }
      if (isHung && owner !== null) this.#replace(slot, owner, ms)
    }
    for (const [process, slot] of this.#replacedProcesses)
      this.#endReplaced(process, slot, this.#silence.of(process, readUntil))
    if (changed) this.#deps.changed()
  }

  /**
   * Kills processes that do not reconnect within the limit: until they are back or dead, this main process cannot start their successor.
   * Returns for how many milliseconds the first of them is awaited.
   */
  #awaitMissing(slot: WorkerSlot, before: ReadonlyMap<string, MissingProcess>): number {
    const { limitMs, logger } = this.#deps
    let longest = 0
    for (const process of slot.missing) {
      const key = `${slot.name}/${process.pid}/${process.identity?.startTime ?? ''}`
      const known = before.get(key) ?? {
        heartbeatAt: performance.now(),
        sendsHeartbeats: true,
        isKilled: false,
      }
      const ms = this.#silence.of(known)
      longest = Math.max(longest, ms)
      const kills = limitMs !== null && ms > limitMs && !known.isKilled
      this.#missing.set(key, kills ? { ...known, isKilled: true } : known)
      if (!kills) continue
      const why = 'a worker that hangs has not reconnected to this main process: it is killed'
      killWorker(slot.index, process, why, logger)
    }
    return longest
  }

  #reportHung(slot: WorkerSlot): void {
    const { logger } = this.#deps
    const { isHung, index, owner } = slot
    const facts = { worker: index, pid: owner?.pid ?? slot.missing[0]?.pid }
    const same = this.#hung.get(slot) === owner
    if (isHung) {
      if (owner !== null) this.#hung.set(slot, owner)
      logger.warn(facts, 'a worker hangs: other workers accept on its listeners')
    } else {
      this.#hung.delete(slot)
      if (same) logger.info(facts, 'a worker no longer hangs')
    }
  }

  #replace(slot: WorkerSlot, process: WorkerProcess, silentMs: number): void {
    const { limitMs, logger } = this.#deps
    if (limitMs === null) return
    if (!slot.isWanted) {
      // A surplus worker gets no successor, and does not hear that it must leave.
      if (silentMs > limitMs) this.#kill(process, slot)
      return
    }
    if (slot.isStarting || slot.standing?.phase !== 'idle') return
    const before = this.#replaced.get(slot)
    if (before?.process === process) {
      // The attempt to replace this process failed.
      if (silentMs > limitMs * 2 ** before.doublings) this.#kill(process, slot)
      return
    }
    const now = performance.now()
    const soon = before !== undefined && now - before.at < SOON_MS
    const doublings = soon ? Math.min(before.doublings + 1, MOST_DOUBLINGS) : 0
    // The first worker is replaced sooner: it decides all state changes, so those of all workers wait for it.
    const limit = (slot.index === 0 ? SILENT_MS : limitMs) * 2 ** doublings
    if (silentMs <= limit) return
    this.#replaced.set(slot, { process, at: now, doublings })
    const facts = { worker: slot.index, pid: process.pid, ms: Math.round(silentMs) }
    logger.warn(facts, 'a worker that hangs is replaced')
    slot.replaceHung(silentMs).then(
      () => this.#replacedProcesses.set(process, slot),
      error => logger.error({ ...facts, err: error }, 'a worker that hangs was not replaced'),
    )
  }

  /** Kills a replaced process that still hangs. A process that sends heartbeats again, or has closed its connection, ends by itself. */
  #endReplaced(process: WorkerProcess, slot: WorkerSlot, silentMs: number): void {
    if (process.forgotten || !process.link.open || silentMs <= SILENT_MS)
      this.#replacedProcesses.delete(process)
    else if (silentMs > this.#deps.limitMs!) {
      this.#replacedProcesses.delete(process)
      this.#kill(process, slot)
    }
  }

  #kill(process: WorkerProcess, { index }: WorkerSlot): void {
    if (this.#killed.has(process)) return
    this.#killed.add(process)
    killWorker(index, process, 'a worker that hangs is killed', this.#deps.logger)
  }
}

/** Kills a worker's process. `what` is the log message. */
export function killWorker(worker: number, process: MemberProcess, what: string, logger: Logger): void {
  const { identity, pid, pidfd, proven } = process
  logger.warn({ worker, pid }, what)
  try {
    killVerified(identity, proven ? pidfd : null)
  } catch (error) {
    logger.error({ worker, err: error }, 'the worker cannot be killed and may keep running')
  }
}
