import { isatty } from 'node:tty'
import { DEFAULT_TIMES } from '../../base/default-times.js'
import type { Logger } from '../../base/logger.js'
import { reportServerStage, type ServerStage } from '../../base/server-stage.js'
import type { FdbError } from '../../errors.js'
import { activeResources } from '../../node/active-resources.js'
import { activeTimers } from '../../node/active-timers.js'
import { keptByText } from '../../operator/status-report.js'
import type { RetiredReason } from '../options/member-options.js'
import { CannotServe } from './cannot-serve.js'
import { EndOrder } from './end-order.js'

/** How far this process has left the service, and why. */
export class Shutdown {
  /** Resolves when everything is released. */
  readonly retired: Promise<RetiredReason>
  readonly order = new EndOrder()
  readonly cannotServe = new CannotServe()
  /** Connections may move although this process leaves by itself, because another worker serves the same addresses. */
  yields = false
  /** The main process of this worker ends too: no process will accept on its listeners. */
  endsListeners = false
  /** Other workers still change the state through this one, which does not leave before it gets another order, or must end. */
  isFollowed = false
  /** The process that replaced this one ends with the service: no process takes connections any more. */
  serviceEnds = false
  /** This process leaves to its standby only: an operator has asked for that, and no order to end has followed. */
  rollsBack = false
  /** For that its work has ended, and it asks the holder to let the standby take over. */
  handsBack = false
  /** The operator who asked this process to leave, or null if the application closes by itself. */
  requestedBy: string | null = null
  #closing = false
  #retired = false
  #over = false
  #resolve!: (why: RetiredReason) => void
  #why: RetiredReason | null = null
  /** The holder's last decision about this process. `none`: no other process has replaced it. */
  #verdict: 'none' | 'retire' | 'released' = 'none'
  #reason: FdbError | null = null

  constructor() {
    this.retired = new Promise(resolve => {
      this.#resolve = resolve
    })
  }

  /** Another process serves, also if this one is closing: connections may move there. */
  get isRetired(): boolean {
    return this.#retired && !this.#over
  }

  /** This process was ordered to end, but may still serve, and another process may still take over from it. */
  get closing(): boolean {
    return this.#closing && !this.#over
  }

  /** Everything is released. */
  get over(): boolean {
    return this.#over
  }

  /** The application's close made this process leave, not the word of the holder. */
  get leavesByItself(): boolean {
    return this.#why !== null
  }

  /** The application has closed the member before another process took over from it. */
  get ended(): boolean {
    return this.#why === 'closed' && !this.rollsBack
  }

  /** The error that kept this process from serving. */
  get reason(): FdbError | null {
    return this.#reason
  }

  /** Keeps the first error, because later ones are mostly its consequences. */
  recordReason(error: FdbError): void {
    this.#reason ??= error
  }

  replaceReason(error: FdbError): void {
    this.#reason = error
  }

  retire(): void {
    this.#retired = true
  }

  /** Undoes {@link retire}: this process writes, for the first time or again. */
  serve(): void {
    this.#reason = null
    this.#retired = false
  }

  close(): void {
    this.#closing = true
  }

  /** This process leaves to other workers. */
  yield(): void {
    this.yields = true
    this.rollsBack = false
    this.order.handBack = false
  }

  /** Undoes {@link close}: a rollback has failed, and this process serves on. */
  reopen(): void {
    this.#closing = false
    this.rollsBack = false
    this.requestedBy = null
  }

  /** Records the holder's decision about this process. `released` is final. */
  handleVerdict(verdict: 'retire' | 'resume' | 'released'): void {
    if (verdict === 'released') this.#verdict = verdict
    else if (this.#verdict !== 'released') this.#verdict = verdict === 'retire' ? verdict : 'none'
  }

  /** Records the reason if the application closes the member. */
  closedBy(why: RetiredReason): void {
    this.#why = why
  }

  /** Records the reason unless {@link closedBy} has. `released`: its own holder has released the successor. */
  leave(released: boolean): void {
    this.#why = this.whyLeft(released)
  }

  /** Returns the reason of a process that leaves. */
  whyLeft(released: boolean): RetiredReason {
    const told = released || this.#verdict !== 'none' ? 'replaced' : 'lost'
    return this.#why ?? (this.rollsBack ? 'closed' : told)
  }

  end(why: FdbError): void {
    this.#over = true
    this.recordReason(why)
  }

  /** The reason to give the application. */
  get why(): RetiredReason {
    return this.#why ?? 'lost'
  }

  settle(application: (why: RetiredReason) => void): void {
    this.#resolve(this.why)
    application(this.why)
  }
}

/** A retired process should end within this time. */
export const RETIRED_MS = DEFAULT_TIMES.retired.ms

interface LingeringSettings {
  readonly logger: Logger
  /** This process is ended so many milliseconds after its retirement; null: never. */
  readonly exitWhenRetired: number | null
}

interface LingeringDeps {
  /** See {@link ServerStage}. */
  readonly left: boolean
  /** Reports to the process that serves which resources keep this process alive. */
  readonly report: () => void
}

/** The members of this process (or thread) that have not retired. */
const activeMembers = new Set<object>()

export function addActive(member: object): void {
  activeMembers.add(member)
}

/** Removes a member that will never serve, or whose process must live on for other processes. */
export function removeActive(member: object): void {
  activeMembers.delete(member)
}

/** The work that this process finishes although it has retired. */
const unfinished = new Set<Promise<unknown>>()

/** Returns `work`, which a retired process may finish: until then the log does not say what keeps the process alive. */
export function finishing<T>(work: Promise<T>): Promise<T> {
  unfinished.add(work)
  const done = () => void unfinished.delete(work)
  work.then(done, done)
  return work
}

/** Logs what keeps a retired process alive, or ends it (`exitWhenRetired`). Does nothing while the process has another active member. */
export function watchRetired(
  member: object,
  { logger, exitWhenRetired }: LingeringSettings,
  { left, report }: LingeringDeps,
): void {
  activeMembers.delete(member)
  if (left && activeMembers.size === 0) reportServerStage('left')
  const ms = exitWhenRetired ?? RETIRED_MS
  const look = () => {
    if (activeMembers.size > 0) return
    if (exitWhenRetired === null && unfinished.size > 0) {
      void Promise.allSettled(unfinished).then(() => setTimeout(look, ms).unref())
      return
    }
    const resources = activeResources()
    const facts = { keptBy: resources, afterMs: ms }
    if (exitWhenRetired !== null) {
      logger.warn(
        facts,
        `process ${process.pid} has retired and is ended now (exitWhenRetired): ${keptByText(resources)} kept it alive`,
      )
      process.exit()
    }
    logger.warn(
      facts,
      `process ${process.pid} has retired and does not end: ${keptByText(resources, 'keep')} it; close that when member.retired resolves, or give join() exitWhenRetired`,
    )
    report()
  }
  setTimeout(look, ms).unref()
}

const STDERR = 2
/** A replaced process should have stopped its timers after this time. */
const DOUBLED_MS = 1_000
/** Shorter intervals, in milliseconds, are not taken for jobs. */
const JOB_MS = 1_001

/**
 * Warns in development if a replaced process still has intervals, or timers of a scheduler, because they run in the next version too. `over` returns
 * true if this process serves again. Elsewhere a replaced process has connections to move or to answer, which the search would stop.
 */
export function watchDoubledTimers(logger: Logger, over: () => boolean): void {
  if (!isDevelopment(process.env.NODE_ENV, isatty(STDERR))) return
  setTimeout(() => {
    if (over()) return
    const timers = activeTimers(JOB_MS)
    if (timers.length === 0) return
    const list = timers.map(({ everyMs, what }) =>
      everyMs === null ? `jobs of ${what}` : `setInterval of ${everyMs} ms, ${what}`,
    )
    logger.warn(
      { timers },
      `process ${process.pid} was replaced, and until it ends its timers run beside those of the next version, so their work may be done twice: ${list.join('; ')}. Start a timer that must run only once in runOnce() of fd-broker, or clear it on retiring. Ignore this if the timers concern only their own process; NODE_ENV=production turns this hint off`,
    )
  }, DOUBLED_MS).unref()
}

/** @param nodeEnv - value of NODE_ENV; without one a program on a terminal is taken to be under development */
export function isDevelopment(nodeEnv: string | undefined, onTerminal: boolean): boolean {
  return nodeEnv === 'development' || (nodeEnv === undefined && onTerminal)
}
