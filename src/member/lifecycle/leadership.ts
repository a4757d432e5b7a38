import type { Logger } from '../../base/logger.js'
import { wrongOption } from '../../checks/place.js'

/** Stops work. `signal` aborts when stopping takes too long: then the handoff continues without waiting. */
export type StopWork = (context: { readonly signal: AbortSignal }) => unknown

/** Starts work that may run in one process only. Returns the function that stops the work, or undefined if it needs none. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return fits, too.
export type StartWork = () => StopWork | void | Promise<StopWork | void>

/** `reinstated`: this process serves again after `retiring`. `resumed`: the handoff failed after the work was stopped; this process still serves. */
type LeadershipEvent = 'serving' | 'retiring' | 'reinstated' | 'resumed'

/** All stops that run at the same time. `done` resolves when all work has stopped; `late` is aborted if that takes too long. */
interface StopRun {
  readonly done: Promise<void>
  readonly late: AbortController
}

class Work {
  readonly #start: StartWork
  /** The result of the start, or null while the work is stopped. */
  #started: { readonly stop: ReturnType<StartWork> } | null = null
  #stopping: Promise<void> | null = null

  constructor(start: StartWork) {
    this.#start = start
  }

  get isStopping(): boolean {
    return this.#stopping !== null
  }

  /**
   * Idempotent. Waits for a stop under way, and does nothing if this process may not work any more then. Rejects with the exception of the
   * application's function; the work then counts as stopped.
   */
  async start(may: () => boolean): Promise<void> {
    if (this.#stopping !== null) {
      await settled(this.#stopping)
      if (!may()) return
    }
    if (this.#started !== null) return
    const started = { stop: this.#start() }
    this.#started = started
    try {
      checkStop(await started.stop)
    } catch (error) {
      if (this.#started === started) this.#started = null
      throw error
    }
  }

  /** Idempotent. Waits for a start or a stop that is under way. */
  stop(signal: AbortSignal): Promise<void> {
    const started = this.#started
    if (started === null) return this.#stopping ?? Promise.resolve()
    this.#started = null
    const stopping = this.#stop(started, signal).finally(() => {
      if (this.#stopping === stopping) this.#stopping = null
    })
    this.#stopping = stopping
    return stopping
  }

  async #stop(started: { readonly stop: ReturnType<StartWork> }, signal: AbortSignal): Promise<void> {
    const stop = typeof started.stop === 'function' ? started.stop : await settled(started.stop)
    if (typeof stop === 'function') await stop({ signal })
  }
}

/** Returns undefined if the start or the stop has failed, because the caller of that reports it. */
async function settled(stop: unknown): Promise<unknown> {
  try {
    return await stop
  } catch {
    return undefined
  }
}

function checkStop(stop: unknown): void {
  if (stop !== undefined && typeof stop !== 'function')
    throw wrongOption(
      'what start() of whileServing() returned',
      stop,
      'a function that stops the work, or nothing',
    )
}

/** The application's once-only work, which starts when this process serves, and stops before another process serves. */
export class Leadership {
  readonly #emit: (event: LeadershipEvent) => void
  readonly #failed: (error: unknown) => void
  readonly #logger: Logger
  readonly #work: Work[] = []
  /** `ended`: the work has stopped or is stopping, and no other process serves yet. */
  #turn: 'not yet' | 'ours' | 'ended' | 'another’s' = 'not yet'
  #run: StopRun | null = null
  /** How long the last stop of all work took, in milliseconds. */
  quiescedMs: number | null = null

  constructor(emit: (event: LeadershipEvent) => void, failed: (error: unknown) => void, logger: Logger) {
    this.#emit = emit
    this.#failed = failed
    this.#logger = logger
  }

  add(start: StartWork): void {
    const work = new Work(start)
    this.#work.push(work)
    if (this.#turn === 'ours') this.#start(work)
  }

  /** Starts all work, because this process writes, for the first time or again. */
  acquire(): void {
    const before = this.#turn
    if (before === 'ours') return
    this.#turn = 'ours'
    // After `ended` no other process has served.
    this.#startAndEmit(before === 'ended' ? 'resumed' : before === 'not yet' ? 'serving' : 'reinstated')
  }

  /**
   * Stops all work, and resolves when it has stopped. Returns undefined if there is no work, or none runs in this process.
   */
  quiesce(): Promise<void> | undefined {
    if (this.#work.length === 0) return undefined
    if (this.#turn === 'ours') {
      this.#turn = 'ended'
      this.#run ??= this.#stopAll()
    }
    return this.#run?.done
  }

  /** Calls `done` when the work has stopped, synchronously if there is nothing to wait for. */
  whenQuiesced(done: () => void): void {
    const quiesced = this.quiesce()
    if (quiesced === undefined) done()
    else void quiesced.then(done)
  }

  /** Aborts the signal of the stops under way, because the handoff waits no longer. */
  abortLate(): void {
    if (this.#run === null || this.#run.late.signal.aborted) return
    this.#logger.warn(
      { hooks: this.#work.length },
      'work of whileServing() has not stopped in time: the handoff continues without waiting',
    )
    this.#run.late.abort()
  }

  /** Stops all work that still runs: another process serves, or the service ends. */
  retire(): void {
    void this.quiesce()
    if (this.#turn === 'not yet' || this.#turn === 'another’s') return
    this.#turn = 'another’s'
    this.#emit('retiring')
  }

  /**
   * Starts the work; work whose stop is under way starts after that, if this process serves then: a stop that hangs keeps back no other work. Emits
   * `event` when all has stopped.
   */
  #startAndEmit(event: LeadershipEvent): void {
    const run = this.#run
    this.#run = null
    run?.late.abort()
    const stopping = this.#work.filter(work => work.isStopping)
    if (stopping.length > 0)
      this.#logger.warn(
        { hooks: stopping.length },
        'work of whileServing() still stops, and starts again when that has ended',
      )
    for (const work of this.#work) this.#start(work)
    if (run === null) this.#emit(event)
    else void run.done.then(() => this.#turn === 'ours' && this.#emit(event))
  }

  #start(work: Work): void {
    void this.#call(work.start(() => this.#turn === 'ours'))
  }

  #stopAll(): StopRun {
    const startedAt = performance.now()
    const late = new AbortController()
    const done = Promise.all(this.#work.map(work => this.#call(work.stop(late.signal)))).then(() => {
      this.quiescedMs = Math.round((performance.now() - startedAt) * 10) / 10
      if (this.#run === run) this.#run = null
    })
    const run = { done, late }
    return run
  }

  async #call(done: Promise<void>): Promise<void> {
    try {
      await done
    } catch (error) {
      this.#failed(error)
    }
  }
}
