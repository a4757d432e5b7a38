import { inheritedOutput } from '../versions/successor-output.js'
import type { Member } from './member.js'

/** The member of this process, for code that has none at hand. */
interface ProcessMember {
  /** The member that joined last and has not retired; null: none. */
  member: Member | null
  /** `join()` was called, or will be. */
  expected: boolean
  /** Parts of the program that wait for the member. */
  readonly waiting: Set<Waiting>
}

export interface Waiting {
  /** `join()` was called; it goes on when this resolves. */
  joining?(): Promise<void>
  joined(member: Member): void
  /** No member will join. */
  alone?(): void
}

/** One record in a process: a preload, a program and its bundle may each have a copy of this library. */
const OWN = Symbol.for('fd-broker.process-member')

type Global = { [OWN]?: ProcessMember }

export function processMember(): ProcessMember {
  const holder = globalThis as Global
  // A successor joins: it was started for that.
  holder[OWN] ??= { member: null, expected: inheritedOutput() !== null, waiting: new Set() }
  return holder[OWN]
}

/** No member will join, or serve: the program runs as it would without this library. */
export function noMember(): void {
  const own = processMember()
  own.expected = false
  for (const waiting of own.waiting) waiting.alone?.()
}

/** `join()` was called. Resolves when work that ran without a member has stopped. */
export async function memberJoins(failed: (error: unknown) => void): Promise<void> {
  const own = processMember()
  own.expected = true
  await Promise.all([...own.waiting].map(waiting => waiting.joining?.().catch(failed)))
}

export function memberJoined(member: Member): void {
  const own = processMember()
  own.member = member
  const waiting = [...own.waiting]
  own.waiting.clear()
  void member.retired.then(() => {
    if (own.member === member) own.member = null
    // Another member may join, or none.
    if (!member.hasServed) for (const each of waiting) own.waiting.add(each)
  })
  for (const each of waiting) each.joined(member)
}
