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

  constructor(start: StartWork) {
    this.#start = start
  }

  /** Idempotent. Rejects with the exception of the application's function; the work then counts as stopped. */
  async start(): Promise<void> {
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

  /** Idempotent. Waits for a start that is under way. */
  async stop(signal: AbortSignal): Promise<void> {
    const started = this.#started
    if (started === null) return
    this.#started = null
    const stop = typeof started.stop === 'function' ? started.stop : await settled(started.stop)
    if (typeof stop === 'function') await stop({ signal })
  }
}

/** Returns undefined if the start has failed, because the caller of the start reports that. */
async function settled(stop: ReturnType<StartWork>): Promise<unknown> {
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
    if (this.#turn === 'ours' && this.#run === null) void this.#call(work.start())
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

  /** Starts the work and emits `event`. Waits for stops under way, and does nothing if this process does not serve any more then. */
  #startAndEmit(event: LeadershipEvent): void {
    const start = () => {
      if (this.#turn !== 'ours') return
      for (const work of this.#work) void this.#call(work.start())
      this.#emit(event)
    }
    if (this.#run === null) {
      start()
      return
    }
    this.#run.late.abort()
    void this.#run.done.then(start)
  }

  #stopAll(): StopRun {
    const startedAt = performance.now()
    const late = new AbortController()
    const done = Promise.all(this.#work.map(work => this.#call(work.stop(late.signal)))).then(() => {
      this.quiescedMs = Math.round((performance.now() - startedAt) * 10) / 10
      this.#run = null
    })
    return { done, late }
  }

  async #call(done: Promise<void>): Promise<void> {
    try {
      await done
    } catch (error) {
      this.#failed(error)
    }
  }
}
