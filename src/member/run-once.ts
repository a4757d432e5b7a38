import { wrongOption } from '../base/check-option.js'
import type { StartWork, StopWork } from './leadership.js'
import type { Member } from './member.js'
import { type MemberWaiter, processMember } from './process-member.js'

/** If `join()` is not called within this time, the work starts without a member. */
const ALONE_MS = 1_000
/** The `signal` of a stop aborts after this time. */
const STOP_MS = 5_000

/**
 * Runs work in one process only: cron jobs, queue consumers, watchers. Like `member.whileServing(start)`, for code without a reference to the
 * member. The work waits until this process has joined; then the member starts and stops it.
 *
 * In a process that never joins, the work starts after a second and is never stopped. If `join()` is called later, the work is stopped
 * first, and the member starts it again. Without a member an exception of `start` is an unhandled rejection, as without this library.
 */
export function runOnce(start: StartWork): void {
  if (typeof start !== 'function') throw wrongOption('start', start, 'a function')
  const { member, waiting } = processMember()
  if (member !== null) member.whileServing(start)
  else waiting.add(new WaitingWork(start))
}

class WaitingWork implements MemberWaiter {
  readonly #start: StartWork
  readonly #timer: NodeJS.Timeout | undefined
  // biome-ignore lint/suspicious/noConfusingVoidType: as StartWork.
  #started: Promise<StopWork | void> | null = null

  constructor(start: StartWork) {
    this.#start = start
    if (!processMember().expected) this.#timer = setTimeout(() => this.alone(), ALONE_MS)
  }

  alone(): void {
    clearTimeout(this.#timer)
    this.#started ??= (async () => await this.#start())()
  }

  async joining(): Promise<void> {
    clearTimeout(this.#timer)
    const stop = await this.#started
    this.#started = null
    await stop?.({ signal: AbortSignal.timeout(STOP_MS) })
  }

  joined(member: Member): void {
    member.whileServing(this.#start)
  }
}
