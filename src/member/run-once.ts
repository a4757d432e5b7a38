import { wrongOption } from '../base/check-option.js'
import type { StartWork, StopWork } from './leadership.js'
import type { Member } from './member.js'
import { processMember, type Waiting } from './process-member.js'

/** A program that calls `join()` does so within this time; work starts then where no member is expected. */
const ALONE_MS = 1_000
/** Milliseconds until the `signal` of a stop aborts. */
const STOP_MS = 5_000

/**
 * Runs work in one process only: cron jobs, queue consumers, watchers. The same as `member.whileServing(start)`, for code that has no member
 * at hand. If this process has joined, that member starts and stops the work. If not, the work waits for {@link join}.
 *
 * In a process that never joins the work starts after a second, and nothing stops it. If `join()` is called later the work is stopped first,
 * and the member starts it again. An exception of `start` without a member is an unhandled rejection, as it would be without this library.
 */
export function runOnce(start: StartWork): void {
  if (typeof start !== 'function') throw wrongOption('start', start, 'a function')
  const { member, waiting } = processMember()
  if (member !== null) member.whileServing(start)
  else waiting.add(new WaitingWork(start))
}

/** Work of a process that has no member, or not yet. */
class WaitingWork implements Waiting {
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
