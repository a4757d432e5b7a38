import { wrongOption } from '../base/check-option.js'
import type { StartWork, StopWork } from './leadership.js'
import type { Member } from './member.js'
import { type MemberWaiter, processMember } from './process-member.js'

/** Work starts without a member if `join()` was not called within this time. */
const ALONE_MS = 1_000
/** The time until the `signal` of a stop aborts. */
const STOP_MS = 5_000

/**
 * Runs work in one process only: cron jobs, queue consumers, watchers. The same as `member.whileServing(start)`, for code without a
 * reference to the member. The member of this process starts and stops the work; before {@link join} the work waits.
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
