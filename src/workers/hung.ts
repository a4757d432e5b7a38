import type { Logger } from '../base/logger.js'
import { HeartbeatSilence } from '../holder/stuck.js'
import { killVerified } from '../os/process-identity.js'
import type { WorkerSlot } from './worker-slot.js'

const LOOK_MS = 250
/** A worker beats every 250 ms; one that is silent for so long hangs, until the next beat. */
const SILENT_MS = 2_000
/** A worker that hangs within this time after the start of the one before hangs for a reason that its successor shares. */
const SOON_MS = 60_000
const MOST_DOUBLINGS = 4

/** The process of a worker, as the holder of its service knows it. */
type Process = NonNullable<WorkerSlot['owner']>

interface Replaced {
  /** The process that hung, and was to be replaced. */
  readonly process: Process
  readonly at: number
  /** How many before it hung soon after their start. */
  readonly doublings: number
}

export interface HungDeps {
  readonly logger: Logger
  /** Silence after which a worker is replaced, milliseconds; null: never. */
  readonly limitMs: number | null
  slots(): readonly WorkerSlot[]
  /** A worker hangs, or is heard again. */
  changed(): void
}

/**
 * Notices workers that hang: processes that live, and say nothing. A worker that hangs accepts nothing, so its listeners are accepted by others;
 * after a limit a successor takes over from it. A process that has woken up by then drains like any other; one that has not is killed.
 */
export class HungWorkers {
  readonly #deps: HungDeps
  readonly #silence = new HeartbeatSilence(LOOK_MS)
  readonly #hung = new Map<WorkerSlot, Process>()
  readonly #replaced = new Map<WorkerSlot, Replaced>()
  /** Processes that were replaced while they hung. */
  readonly #left = new Map<Process, WorkerSlot>()
  readonly #killed = new WeakSet<Process>()
  #ticker: NodeJS.Timeout | undefined
  #reading: NodeJS.Immediate | undefined

  constructor(deps: HungDeps) {
    this.#deps = deps
  }

  /** Idempotent. */
  start(): void {
    if (this.#ticker !== undefined) return
    this.#ticker = setInterval(() => this.#check(), LOOK_MS).unref()
  }

  stop(): void {
    clearInterval(this.#ticker)
    clearImmediate(this.#reading)
    this.#ticker = undefined
  }

  #check(): void {
    this.#silence.tick()
    // Arrived messages are read before a worker is called silent.
    clearImmediate(this.#reading)
    this.#reading = setImmediate(() => this.#judge())
  }

  #judge(): void {
    let changed = false
    for (const slot of this.#deps.slots()) {
      const { owner } = slot
      const ms = this.#silence.of(owner ?? undefined)
      const hung = ms > SILENT_MS
      if (hung !== slot.hung) {
        changed = true
        slot.hung = hung
        this.#reportHung(slot)
      }
      if (hung) this.#replace(slot, owner!, ms)
    }
    for (const [process, slot] of this.#left) this.#endLeft(process, slot, this.#silence.of(process))
    if (changed) this.#deps.changed()
  }

  #reportHung(slot: WorkerSlot): void {
    const { logger } = this.#deps
    const { hung, index, owner } = slot
    const facts = { worker: index, pid: owner?.pid }
    const same = this.#hung.get(slot) === owner
    if (hung) {
      this.#hung.set(slot, owner!)
      logger.warn(facts, 'a worker hangs: others accept what comes to its listeners')
    } else {
      this.#hung.delete(slot)
      if (same) logger.info(facts, 'a worker hangs no more')
    }
  }

  #replace(slot: WorkerSlot, process: Process, silentMs: number): void {
    const { limitMs, logger } = this.#deps
    if (limitMs === null || !slot.wanted || slot.starting || slot.standing?.phase !== 'idle') return
    const before = this.#replaced.get(slot)
    if (before?.process === process) {
      // Its successor did not come to serve.
      if (silentMs > limitMs * 2 ** before.doublings) this.#kill(process, slot)
      return
    }
    const now = performance.now()
    const soon = before !== undefined && now - before.at < SOON_MS
    const doublings = soon ? Math.min(before.doublings + 1, MOST_DOUBLINGS) : 0
    // The first worker decides the changes of all: they wait for its successor.
    const limit = (slot.index === 0 ? SILENT_MS : limitMs) * 2 ** doublings
    if (silentMs <= limit) return
    this.#replaced.set(slot, { process, at: now, doublings })
    const facts = { worker: slot.index, pid: process.pid, ms: Math.round(silentMs) }
    logger.warn(facts, 'a worker that hangs is replaced')
    slot.replaceHung(silentMs).then(
      () => this.#left.set(process, slot),
      error => logger.error({ ...facts, err: error }, 'a worker that hangs was not replaced'),
    )
  }

  /** A process that is heard, or has left its channel, ends as any that was replaced. */
  #endLeft(process: Process, slot: WorkerSlot, silentMs: number): void {
    if (process.over || !process.link.open || silentMs <= SILENT_MS) this.#left.delete(process)
    else if (silentMs > this.#deps.limitMs!) {
      this.#left.delete(process)
      this.#kill(process, slot)
    }
  }

  #kill(process: Process, { index }: WorkerSlot): void {
    if (this.#killed.has(process)) return
    this.#killed.add(process)
    killWorker(index, process, 'a worker that hangs is killed', this.#deps.logger)
  }
}

/** SIGKILL. `what`: for the log. */
export function killWorker(worker: number, process: Process, what: string, logger: Logger): void {
  const { identity, pid, pidfd, proven } = process
  logger.warn({ worker, pid }, what)
  try {
    killVerified(identity, proven ? pidfd : null)
  } catch (error) {
    logger.error({ worker, err: error }, 'the worker cannot be killed')
  }
}
