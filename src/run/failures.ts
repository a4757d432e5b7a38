import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { EventLog } from '../events/event-log.js'
import { isShortage } from '../kernel/index.js'
import type { Failure } from '../operator/status-report.js'
import { outOfDescriptors } from '../os/limits.js'
import { indented, NO_REASON, withAbort } from '../versions/exit-reason.js'
import type { VersionSettings } from './settings.js'

interface FailedVersion {
  readonly id: number
  readonly pid: number
  readonly settings: VersionSettings
  /** The step that a version that is not ready has not completed. */
  readonly missing: string
  takeReason(): { readonly why: string; readonly lines: string | null }
  takeLines(): string | null
}

export interface SupervisorEnd {
  readonly code: number
  /** Why no version has served; null if a version has served, or if none was started. */
  readonly failure: Failure | null
}

export class VersionFailures {
  readonly #logger: Logger
  readonly #events: Pick<EventLog, 'note'>
  readonly #reasons = new Map<number, FdbError>()
  #last: Failure | null
  /** The version of the last failure; 0 if the previous image of the supervisor recorded that failure. */
  #lastVersion = 0

  constructor(logger: Logger, events: Pick<EventLog, 'note'>, last: Failure | null) {
    this.#logger = logger
    this.#events = events
    this.#last = last
  }

  get last(): Failure | null {
    return this.#last
  }

  /** Must precede the failure's event: the state machine's answer to the requests contains the reason. */
  record(version: number, reason: FdbError): void {
    this.#reasons.set(version, reason)
    const { message } = reason
    const phase = this.#note(version, reason)
    const what = phase === 'serving' ? 'the serving version has failed' : 'a version failed before it served'
    // Without a cause the stack is omitted: it shows only the supervisor's code, not the version's.
    const err = reason.cause === undefined ? { ...reason, message } : reason
    this.#logger.error({ version, err }, what)
  }

  #note(version: number, { code, message, phase = 'starting' }: FdbError): string {
    this.#last = { code, message, phase, at: Date.now() }
    this.#lastVersion = version
    this.#events.note('version.failed', { generation: version, phase, code, reason: message })
    return phase
  }

  /** Returns why a version newer than `serving` does not serve; null if none has failed. */
  newerThan(serving: number): string | null {
    return this.#lastVersion > serving ? (this.#last?.message ?? null) : null
  }

  /** Records why a version was not started. */
  recordUnstarted(version: number, error: unknown): void {
    const isShort = isShortage(error)
    const what = `version ${version} cannot be started`
    this.record(version, isShort ? outOfDescriptors(what, error) : FdbError.from(error))
  }

  /** Records that a version's main process ended before the version served. `left`: pids of its processes that still run. */
  recordEnd(version: FailedVersion, phase: string, code: number, left: readonly number[]): void {
    const { id, pid, settings } = version
    const behind =
      left.length === 0
        ? ''
        : ` and left ${left.length} processes behind (${left.join(', ')}), which are ended`
    const { why: reason, lines } = version.takeReason()
    const remedy =
      left.length > 0 && code === 0
        ? 'a program that daemonizes cannot be supervised: keep it in the foreground'
        : `${withAbort(reason, code === ABORTED)}${code > 0 && code <= 128 ? bindHint(settings.listen, reason, lines) : ''}`
    const why = `version ${id} (${settings.command[0]} …, pid ${pid}) ended ${exitCodeText(code)} before it served${behind}: ${remedy}${indented(lines)}`
    this.record(id, new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { phase, details: { code } }))
  }

  /** Records that a version ended in its probation. `isReplaced`: the previous version is started again. */
  recordCrash(
    version: FailedVersion & { readonly startedAt: number },
    code: number,
    { left, isReplaced }: { readonly left: readonly number[]; readonly isReplaced: boolean },
  ): void {
    const { id, pid, settings, startedAt } = version
    const behind = left.length === 0 ? '' : ` and left ${left.length} processes behind (${left.join(', ')})`
    const lived = ((Date.now() - startedAt) / 1000).toFixed(1)
    const next = isReplaced ? 'the previous version is started again' : 'no other version is known to be good'
    const why = `version ${id} (${settings.command[0]} …, pid ${pid}) served and ended ${exitCodeText(code)} in its probation, ${lived} s after its start${behind}: ${next}${indented(version.takeLines())}`
    this.record(id, new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { phase: 'serving', details: { code } }))
  }

  /** Records that the version `before`, started again at an operator's request, has replaced a version. */
  recordRollback({ id, pid, settings }: FailedVersion, before: number, asked: string): void {
    const why = `version ${id} (${settings.command[0]} …, pid ${pid}) is replaced by version ${before}, which is started again: ${asked}`
    this.#note(id, new FdbError('ERR_FDB_SUCCESSOR_LEFT', why, { phase: 'serving' }))
    this.#logger.info({ version: id, before, asked }, 'an operator rolled back to the previous version')
  }

  recordTimeout({ id, pid, missing }: FailedVersion, ms: number): void {
    const why = `version ${id} (pid ${pid}) was not ready within ${ms} ms: ${missing}`
    this.record(id, new FdbError('ERR_FDB_DEADLINE', why, { phase: 'starting' }))
  }

  of(version: number | null): FdbError | undefined {
    return version === null ? undefined : this.#reasons.get(version)
  }

  forget(version: number): void {
    this.#reasons.delete(version)
  }
}

/** Returns a remedy if the version may have ended because `run` already listens on an address that the version binds. */
function bindHint(listen: VersionSettings['listen'], reason: string, lines: string | null): string {
  const hint = 'take the socket from LISTEN_FDS instead of binding it (docs/run.md)'
  if (/EADDRINUSE|address already in use/i.test(lines ?? ''))
    return listen.length > 0 ? `; ${hint}` : `; give the address to run by --listen, and ${hint}`
  return listen.length > 0 && reason === NO_REASON ? `; if an address was in use, ${hint}` : ''
}

/** An unrequested end of a serving version. */
interface VersionExit {
  readonly generation: number
  readonly pid: number
  /** The exit code, or 128 plus the number of the signal. */
  readonly code: number
  /** In milliseconds since 1970. */
  readonly at: number
  /** Lifetime of the process, in seconds. */
  readonly seconds: number
}

const MOST = 5
/** 128 plus the number of SIGABRT. */
const ABORTED = 134
/** Formats an exit code as `with code 1` or `by signal 15`; a code above 128 is 128 plus the number of a signal. */
export function exitCodeText(code: number): string {
  return code > 128 ? `by signal ${code - 128}` : `with code ${code}`
}

/** Counts the unrequested ends of serving versions, and keeps the latest ones. */
export class Exits {
  #count: number
  #last: readonly VersionExit[]

  constructor(before: ExitReport | null = null) {
    this.#count = before?.count ?? 0
    this.#last = before?.last ?? []
  }

  record(exit: Omit<VersionExit, 'at' | 'seconds'>, startedAt: number): void {
    const at = Date.now()
    this.#count++
    this.#last = [...this.#last, { ...exit, at, seconds: Math.max(0, (at - startedAt) / 1000) }].slice(-MOST)
  }

  get report(): ExitReport {
    return { count: this.#count, last: this.#last }
  }
}

export interface ExitReport {
  readonly count: number
  /** Newest last. */
  readonly last: readonly VersionExit[]
}

export function isCrashLoop(consecutiveFailures: number): boolean {
  return consecutiveFailures >= 2
}
