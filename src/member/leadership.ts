import { wrongOption } from '../base/check-option.js'
import type { Logger } from '../base/logger.js'

/** Ends work that was started. `signal` aborts when it takes too long: the handoff goes on without it. */
export type StopWork = (context: { readonly signal: AbortSignal }) => unknown

/** Starts work that may run in one process only. Returns its stop; undefined: the work needs none. */
// biome-ignore lint/suspicious/noConfusingVoidType: a function without a return fits, too.
export type StartWork = () => StopWork | void | Promise<StopWork | void>

export interface LeadershipEvents {
  serving(): void
  /** Another serves. */
  retiring(): void
  /** Again, behind `retiring`. */
  reinstated(): void
  /** Again, after the work was stopped and without `retiring`: the handoff has failed. */
  resumed(): void
}

/** The stops of the work, as they are called once. */
interface Run {
  readonly done: Promise<void>
  readonly late: AbortController
}

/** One piece of work: stopped, or started with what its start returned. */
class Work {
  readonly #start: StartWork
  #started: { readonly stop: ReturnType<StartWork> } | null = null

  constructor(start: StartWork) {
    this.#start = start
  }

  /** Idempotent. Throws what the application's function throws; the work is stopped then. */
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

  /** Idempotent. A start that is under way ends first. */
  async stop(signal: AbortSignal): Promise<void> {
    const started = this.#started
    if (started === null) return
    this.#started = null
    const stop = typeof started.stop === 'function' ? started.stop : await settled(started.stop)
    if (typeof stop === 'function') await stop({ signal })
  }
}

/** The result of a start; undefined if it has failed, which its caller reports. */
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

/** The application's work for one process at a time: starts when this process serves, stops before another does. */
export class Leadership {
  readonly #events: LeadershipEvents
  readonly #failed: (error: unknown) => void
  readonly #logger: Logger
  readonly #work: Work[] = []
  /** `ended`: the work was stopped, and no other process serves yet. */
  #turn: 'not yet' | 'ours' | 'ended' | 'another’s' = 'not yet'
  #run: Run | null = null
  /** Milliseconds that the last stops took. */
  quiescedMs: number | null = null

  constructor(events: LeadershipEvents, failed: (error: unknown) => void, logger: Logger) {
    this.#events = events
    this.#failed = failed
    this.#logger = logger
  }

  /** Starts the work at once if it is this process's turn. */
  add(start: StartWork): void {
    const work = new Work(start)
    this.#work.push(work)
    if (this.#turn === 'ours' && this.#run === null) void this.#call(work.start())
  }

  /** This process may write, for the first time or again. */
  acquire(): void {
    const before = this.#turn
    if (before === 'ended') {
      this.resume()
      return
    }
    this.#turn = 'ours'
    if (before === 'not yet') this.#after(() => this.#events.serving())
    else if (before === 'another’s') this.#after(() => this.#events.reinstated())
  }

  /** Stops all work at once; resolves when it has stopped. Undefined if there is none, or it is not our turn. */
  quiesce(): Promise<void> | undefined {
    if (this.#work.length === 0) return undefined
    if (this.#turn === 'ours') {
      this.#turn = 'ended'
      this.#run ??= this.#stopAll()
    }
    return this.#run?.done
  }

  /** Calls `done` when the work has stopped; in the same turn if there is nothing to wait for. */
  whenQuiesced(done: () => void): void {
    const quiesced = this.quiesce()
    if (quiesced === undefined) done()
    else void quiesced.then(done)
  }

  /** The handoff waits no longer for the work. */
  hurry(): void {
    if (this.#run === null || this.#run.late.signal.aborted) return
    this.#logger.warn(
      { hooks: this.#work.length },
      'work that must run in one process only has not ended in time: the handoff goes on',
    )
    this.#run.late.abort()
  }

  /** The handoff has failed: stopped work starts again, once it has stopped. */
  resume(): void {
    if (this.#turn !== 'ended') return
    this.#turn = 'ours'
    this.#after(() => this.#events.resumed())
  }

  /** Another serves, or the service ends. Work that was not stopped before is stopped now. */
  retire(): void {
    void this.quiesce()
    if (this.#turn === 'not yet' || this.#turn === 'another’s') return
    this.#turn = 'another’s'
    this.#events.retiring()
  }

  /** Starts the work and calls `tell`: at once, or when the last stops have settled, if it is our turn then. */
  #after(tell: () => void): void {
    const run = this.#run
    if (run === null) {
      this.#startAll()
      tell()
      return
    }
    run.late.abort()
    void run.done.then(() => {
      if (this.#turn !== 'ours') return
      this.#startAll()
      tell()
    })
  }

  #startAll(): void {
    for (const work of this.#work) void this.#call(work.start())
  }

  #stopAll(): Run {
    const begun = performance.now()
    const late = new AbortController()
    const done = Promise.all(this.#work.map(work => this.#call(work.stop(late.signal)))).then(() => {
      this.quiescedMs = Math.round((performance.now() - begun) * 10) / 10
      this.#run = null
    })
    return { done, late }
  }

  /** An exception of the application is reported, and undoes nothing. */
  async #call(done: Promise<void>): Promise<void> {
    try {
      await done
    } catch (error) {
      this.#failed(error)
    }
  }
}
