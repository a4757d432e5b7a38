import { inheritedOutput } from '../../base/successor-output.js'
import { wrongOption } from '../../checks/place.js'
import type { StartWork, StopWork } from '../lifecycle/leadership.js'
import type { Member } from '../member.js'

/** The member of this process, for code that has no reference to it. */
interface ProcessMember {
  /** The member that joined last; null before the first join, and after this member has retired. */
  member: Member | null
  /** `join()` was called, or will be. */
  expected: boolean
  readonly waiting: Set<MemberWaiter>
}

export interface MemberWaiter {
  /** Called by `join()`, which waits for the promise. */
  joining?(): Promise<void>
  joined(member: Member): void
  /** Called when no member will join. */
  alone?(): void
}

/** A global symbol, because a preload, a program and its bundle may each have a copy of this library. */
const OWN = Symbol.for('fd-broker.process-member')

export function processMember(): ProcessMember {
  const holder = globalThis as { [OWN]?: ProcessMember }
  // A process with inherited output was started as a successor, and will join.
  holder[OWN] ??= { member: null, expected: inheritedOutput() !== null, waiting: new Set() }
  return holder[OWN]
}

/** Lets work wait for `join()`, also if that is not called soon. */
export function expectMember(): void {
  processMember().expected = true
}

/** Starts the waiting work without a member, because none will join or serve. */
export function noMember(): void {
  const own = processMember()
  own.expected = false
  for (const waiter of own.waiting) waiter.alone?.()
}

/** Stops the work that runs without a member, at the start of `join()`. Resolves when the work has stopped. */
export async function memberJoins(failed: (error: unknown) => void): Promise<void> {
  const own = processMember()
  own.expected = true
  await Promise.all([...own.waiting].map(waiter => waiter.joining?.().catch(failed)))
}

export function memberJoined(member: Member): void {
  const own = processMember()
  own.member = member
  const waiting = [...own.waiting]
  own.waiting.clear()
  void member.retired.then(() => {
    if (own.member === member) own.member = null
    // The work waits for the next member that joins.
    if (!member.hasServed) for (const each of waiting) own.waiting.add(each)
  })
  for (const each of waiting) each.joined(member)
}

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
