import type { Logger } from '../base/logger.js'
import type { FdbError } from '../errors.js'
import { activeIntervals } from '../node/intervals.js'
import { keptByText } from '../operator/status-report.js'
import type { RetiredReason } from './member-options.js'

/** How far a process has come in leaving. */
type Stage =
  /** This process serves, or is to. */
  | 'stays'
  /** Another serves, as the application was told. */
  | 'retired'
  /** The application closes what was not retired. */
  | 'closing'
  | 'closing, retired'
  /** Everything was let go of. */
  | 'over'

/** Why a process leaves, and how far it has come. */
export class Shutdown {
  /** Resolves when it is over. */
  readonly retired: Promise<RetiredReason>
  /** Milliseconds for the last connections. */
  drainTimeout: number
  /** Connections that the application closes go on elsewhere: another process serves the same addresses. */
  yields = false
  /** The client that asked for it to leave; null: the application does so by itself. */
  asked: string | null = null
  #stage: Stage = 'stays'
  #resolve!: (why: RetiredReason) => void
  #why: RetiredReason = 'lost'
  /** The holder's last word: a process that is fenced while another serves was not told. */
  #told: 'nothing' | 'retire' | 'released' = 'nothing'
  #reason: FdbError | null = null

  constructor(drainTimeout: number) {
    this.drainTimeout = drainTimeout
    this.retired = new Promise(resolve => {
      this.#resolve = resolve
    })
  }

  /** The application was told that another serves, and not yet that this process does again. */
  get isRetired(): boolean {
    return this.#stage === 'retired' || this.#stage === 'closing, retired'
  }

  /** The application wants to go. */
  get closing(): boolean {
    return this.#stage === 'closing' || this.#stage === 'closing, retired'
  }

  get over(): boolean {
    return this.#stage === 'over'
  }

  /** The application has closed the service: no process follows. */
  get ended(): boolean {
    return this.#why === 'closed'
  }

  /** Why this process does not come to serve, or could not. */
  get reason(): FdbError | null {
    return this.#reason
  }

  /** The first reason counts: what came of it says less. */
  because(error: FdbError): void {
    this.#reason ??= error
  }

  /** The process was fenced: what came before does not count. */
  becauseFenced(error: FdbError): void {
    this.#reason = error
  }

  retire(): void {
    if (this.#stage === 'stays') this.#stage = 'retired'
  }

  /** This process writes, for the first time or again. */
  serve(): void {
    this.#reason = null
    if (this.#stage === 'retired') this.#stage = 'stays'
    else if (this.#stage === 'closing, retired') this.#stage = 'closing'
  }

  close(): void {
    if (this.#stage === 'stays') this.#stage = 'closing'
    else if (this.#stage === 'retired') this.#stage = 'closing, retired'
  }

  /** The holder says which process serves. */
  handleVerdict(word: 'retire' | 'resume' | 'released'): void {
    if (word === 'released') this.#told = word
    else if (this.#told !== 'released') this.#told = word === 'retire' ? word : 'nothing'
  }

  /** The application has closed what served, or stood by. */
  closedBy(why: RetiredReason): void {
    this.#why = why
  }

  /** The process leaves unasked. `released`: by its own holder's word another serves for good. */
  leave(released: boolean): void {
    this.#why = released || this.#told !== 'nothing' ? 'replaced' : 'lost'
  }

  end(why: FdbError): void {
    this.#stage = 'over'
    this.because(why)
  }

  /** Tells the waiting callers. */
  settle(application: (why: RetiredReason) => void): void {
    this.#resolve(this.#why)
    application(this.#why)
  }
}

/** A process that has retired and lives after so long has something that keeps it. */
export const RETIRED_MS = 2_000

interface LingeringDeps {
  readonly logger: Logger
  /** Milliseconds from the retirement to the end of the process; null: the application ends it. */
  readonly exitWhenRetired: number | null
  /** The process that serves learns what keeps this one. */
  readonly report: () => void
}

/** Members of this process (or thread) that have not retired. */
const living = new Set<object>()

/** The member has not retired: its process is needed. */
export function lives(member: object): void {
  living.add(member)
}

/** The member did not come to serve, or its process stays for others. */
export function livesNoMore(member: object): void {
  living.delete(member)
}

/** Reports what keeps a retired process alive, or ends it (`exitWhenRetired`). Does nothing while another member lives in it. */
export function watchRetired(member: object, { logger, exitWhenRetired, report: tell }: LingeringDeps): void {
  living.delete(member)
  const ms = exitWhenRetired ?? RETIRED_MS
  setTimeout(() => {
    if (living.size > 0) return
    const kept = whatKeeps()
    const facts = { keptBy: kept, afterMs: ms }
    if (exitWhenRetired !== null) {
      logger.warn(facts, `a retired process is ended: ${keptByText(kept)} kept it (exitWhenRetired)`)
      process.exit()
    }
    logger.warn(
      facts,
      `process ${process.pid} has retired and does not end: ${keptByText(kept)} keeps it; close that when member.retired resolves, or give join() exitWhenRetired`,
    )
    tell()
  }, ms).unref()
}

/** A process that drains has had this time to stop its timers. */
const DOUBLED_MS = 1_000
/** Values of NODE_ENV. */
const NO_DEVELOPMENT: readonly (string | undefined)[] = ['production', 'test']
/** Shorter intervals are seldom jobs. */
const JOB_MS = 1_001

/** Names, in development, the intervals of a replaced process, which the next version runs too. `over`: the process needs no warning. */
export function watchDoubledIntervals(logger: Logger, over: () => boolean): void {
  if (NO_DEVELOPMENT.includes(process.env.NODE_ENV)) return
  setTimeout(() => {
    if (over()) return
    const intervals = activeIntervals(JOB_MS)
    if (intervals.length === 0) return
    const list = intervals.map(({ everyMs, what }) => `setInterval of ${everyMs} ms, ${what}`)
    logger.warn(
      { intervals },
      `process ${process.pid} was replaced and its intervals still run, as do those of the next version: ${list.join('; ')}. Start them in runOnce() or member.whileServing(), or clear them on retiring`,
    )
  }, DOUBLED_MS).unref()
}

/** Resources that keep the event loop of this process alive, by Node's names. */
export function whatKeeps(): Record<string, number> {
  const kept: Record<string, number> = {}
  for (const type of process.getActiveResourcesInfo()) kept[type] = (kept[type] ?? 0) + 1
  return kept
}
