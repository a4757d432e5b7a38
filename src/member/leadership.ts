import type { Logger } from '../base/logger.js'

/** Ends what must run in one process only; awaited. `signal`: it takes too long, and the handoff goes on without it. */
export type QuiesceHook = (context: { readonly signal: AbortSignal }) => unknown

/** The application's events of leadership. */
export interface LeadershipEvents {
  serving(): void
  /** Another serves. */
  retiring(): void
  /** Again, behind `retiring`. */
  reinstated(): void
  /** Again, behind {@link QuiesceHook}s without `retiring`: the handoff has failed. */
  resumed(): void
}

/** The hooks, as they are called once. */
interface Run {
  readonly done: Promise<void>
  readonly late: AbortController
}

/**
 * The work of the application that may be done in one process only: whether it is this one's turn, and the hooks that
 * bring it to its end before another's begins.
 */
export class Leadership {
  readonly #events: LeadershipEvents
  readonly #failed: (error: unknown) => void
  readonly #logger: Logger
  readonly #hooks: QuiesceHook[] = []
  /** `ended`: by the hooks, and no other process serves yet. */
  #turn: 'not yet' | 'ours' | 'ended' | 'another’s' = 'not yet'
  #run: Run | null = null
  /** Milliseconds that the last run of the hooks took. */
  quiescedMs: number | null = null

  constructor(events: LeadershipEvents, failed: (error: unknown) => void, logger: Logger) {
    this.#events = events
    this.#failed = failed
    this.#logger = logger
  }

  add(hook: QuiesceHook): void {
    this.#hooks.push(hook)
  }

  /** This process may write, for the first time or again. */
  begin(): void {
    const before = this.#turn
    if (before === 'ended') {
      this.resume()
      return
    }
    this.#turn = 'ours'
    if (before === 'not yet') this.#events.serving()
    else if (before === 'another’s') this.#after(() => this.#events.reinstated())
  }

  /** The hooks, all at once; resolves when all have settled. Nothing (at once) where there are none, or it is not our turn. */
  quiesce(): Promise<void> | undefined {
    if (this.#hooks.length === 0) return undefined
    if (this.#turn === 'ours') {
      this.#turn = 'ended'
      this.#run ??= this.#runHooks()
    }
    return this.#run?.done
  }

  /** Calls `done` when the hooks have settled; in the same turn where there is nothing to wait for. */
  whenQuiesced(done: () => void): void {
    const quiesced = this.quiesce()
    if (quiesced === undefined) done()
    else void quiesced.then(done)
  }

  /** The handoff waits no longer for the hooks. */
  hurry(): void {
    if (this.#run === null || this.#run.late.signal.aborted) return
    this.#logger.warn(
      { hooks: this.#hooks.length },
      'work that must run in one process only has not ended in time: the handoff goes on',
    )
    this.#run.late.abort()
  }

  /** The handoff has failed: what was ended begins again, once it has ended. */
  resume(): void {
    if (this.#turn !== 'ended') return
    this.#turn = 'ours'
    this.#after(() => this.#events.resumed())
  }

  /** Another serves, or the service ends. Work that the hooks did not end before ends now. */
  retire(): void {
    void this.quiesce()
    if (this.#turn === 'not yet' || this.#turn === 'another’s') return
    this.#turn = 'another’s'
    this.#events.retiring()
  }

  /** Tells at once, or when the hooks have settled, if it is our turn then. */
  #after(tell: () => void): void {
    const run = this.#run
    if (run === null) {
      tell()
      return
    }
    run.late.abort()
    void run.done.then(() => {
      if (this.#turn === 'ours') tell()
    })
  }

  #runHooks(): Run {
    const begun = performance.now()
    const late = new AbortController()
    const done = Promise.all(this.#hooks.map(hook => this.#call(hook, late.signal))).then(() => {
      this.quiescedMs = Math.round((performance.now() - begun) * 10) / 10
      this.#run = null
    })
    return { done, late }
  }

  async #call(hook: QuiesceHook, signal: AbortSignal): Promise<void> {
    try {
      await hook({ signal })
    } catch (error) {
      this.#failed(error)
    }
  }
}
