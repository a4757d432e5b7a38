import { inheritedOutput } from '../base/successor-output.js'
import type { Member } from './member.js'

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
