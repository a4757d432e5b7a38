import type { Rules } from '../../src/handoff/rules.js'

/** How much of the world is explored. Faults are budgets: any of them may strike at any moment. */
export interface Bounds {
  /** Processes that ever live (three parties: members; the daemon is one more). */
  readonly processes: number
  /** Different changes that clients ask for. */
  readonly writes: number
  /** One change is made in a process that does not write, and forwarded. */
  readonly forward: boolean
  /** Two parties: one live connection moves too. */
  readonly connection: boolean
  /** SIGKILL of anybody. */
  readonly crash: number
  /** SIGSTOP of any server (a SIGCONT may follow at any time, or never). */
  readonly stop: number
  /** Channels cut: losing nothing, what travels in one direction, or in both. */
  readonly cut: number
  /** Three parties: how often an operator, or a health check that is mistaken, ends a probation. */
  readonly back: number
  /** Three parties: how often the daemon is started again. */
  readonly restarts: number
  /** How often the owner's segment has grown, so that it gets a new one. */
  readonly renewals: number
  /** Effects that fail. A read that failed once fails again. */
  readonly fail: number
  /** An effect may take time (accept, carry, endWriting): what happens meanwhile is heard, and its effects wait. */
  readonly lag: boolean
  /** Processes whose application wants to go. */
  readonly leave: number
  /** Two parties: joiners that have given up before their Hello is read, and live on. */
  readonly absent: number
  /** Three parties: how often a member finds the daemon silent, whatever it does. */
  readonly silent: number
  /** Applications have work that may be done in one process only; else no incumbent is asked to end it, as ever before 0.3. */
  readonly work: boolean
  /** How often a process that serves is busy (its loop is blocked) for longer than another may be patient, and less than a change may take. */
  readonly busy: number
  /** Probations and drains last as long as they like: what must hold at rest must hold there too. */
  readonly lasting: boolean
  /** Segments that are ever made. */
  readonly segments: number
  /** The effects of one step happen all at once; else anything may happen between two of them. */
  readonly atomic: boolean
}

export const BOUNDS: Bounds = {
  processes: 2,
  writes: 1,
  forward: false,
  connection: false,
  crash: 1,
  stop: 1,
  cut: 1,
  back: 1,
  restarts: 1,
  renewals: 0,
  fail: 0,
  lag: false,
  leave: 0,
  absent: 0,
  silent: 0,
  work: false,
  busy: 0,
  lasting: false,
  segments: 9,
  atomic: false,
}

/** The rules of the machines in these bounds. */
export function rulesOf(bounds: Bounds, rules: Rules): Rules {
  return bounds.work ? rules : { ...rules, quiesceFirst: false, workAgain: false }
}
