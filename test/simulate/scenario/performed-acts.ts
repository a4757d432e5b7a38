import type { World } from '../world.js'

/** An act after a time, or after callbacks of a process. */
interface Timed {
  readonly when: { readonly ms: number } | { readonly after: string; readonly steps: number }
}

/** The time of an act that follows callbacks of a process. */
type Reached<A> = A extends { readonly when: infer W } ? Exclude<W, { readonly ms: number }> : never

/** Runs the world for at most `ms`, and performs each act whose time has come. `isReached` says so of an act that follows callbacks of a process. */
export function performActs<A extends object>(
  world: World,
  acts: readonly A[],
  {
    ms,
    isReached,
    perform,
  }: { readonly ms: number; isReached(when: Reached<A>): boolean; perform(act: A): void },
): void {
  const begun = world.now
  const isDue = (act: A & Timed) =>
    'ms' in act.when ? world.now >= begun + act.when.ms : isReached(act.when as Reached<A>)
  let waiting = acts.filter((act): act is A & Timed => 'when' in act)
  // The clock also stops where an act is due, although no process has anything to do then.
  for (const { when } of waiting) if ('ms' in when) world.wakeAt(begun + when.ms)
  while (world.run(() => waiting.some(isDue), Math.max(0, begun + ms - world.now))) {
    const due = waiting.filter(isDue)
    waiting = waiting.filter(act => !due.includes(act))
    for (const act of due) perform(act)
  }
}
