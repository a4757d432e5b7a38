/** The phases of a handoff and of a member, and what they mean outside of the two machines. */

/** Where a handoff stands, for its holder. */
export type HolderPhase =
  | 'idle'
  /** The joiner has, or is being sent, everything; it is to say Ready. */
  | 'offering'
  /** The owner brings to its end what must run in one process only, and is to say Quiesced. */
  | 'quiescing'
  /** The owner is to say Frozen. */
  | 'freezing'
  /** The owner's segment is sealed; the joiner reads its tail and is to say Prepared. */
  | 'preparing'
  /** Commit has left; the joiner is to say Serving for the current grant. */
  | 'committing'
  /** The owner serves; `standby` may come back until the owner has shown health. */
  | 'probation'
  /** The owner has been given the right again and is to say Serving; `joiner` is who was turned away from. */
  | 'returning'
  /** A restarted daemon: waits until every rights-holder is back or proved dead. */
  | 'rebuilding'
  /** Embedded only: the right to decide has gone to the successor. Final. */
  | 'released'

/** Where a member stands. */
export type MemberPhase =
  /** The member has said Hello; it waits for the Offer, or has it (`holds`) and is being made ready by the application. */
  | 'joining'
  /** The member has said Ready: it could serve. */
  | 'ready'
  /** Has been given the right to write in `epoch`: accepts, and takes over what others wrote. */
  | 'beginning'
  /** Accepts, and writes in `epoch`. */
  | 'serving'
  /** As serving, but appends wait: a handoff to another is about to commit. */
  | 'frozen'
  /** Another serves; the listeners are kept, so that this one can be reinstated without binding anything. */
  | 'standby'
  /** The holder is dead or silent: the member accepts, so that no client is refused, and only reads. */
  | 'orphan'
  /** Was to serve and could not read what others wrote, or not write: accepts, reads only. */
  | 'unfit'
  /** Listeners closed; the last connections drain. */
  | 'leaving'
  | 'gone'

const BEFORE_COMMIT: ReadonlySet<string | undefined> = new Set<HolderPhase>([
  'offering',
  'quiescing',
  'freezing',
  'preparing',
])
const ACCEPTS: ReadonlySet<MemberPhase> = new Set(['beginning', 'serving', 'unfit'])
const CURRENT: ReadonlySet<MemberPhase> = new Set([...ACCEPTS, 'joining', 'ready', 'frozen'])

/** The handoff can be given up, and its incumbent writes on. */
export function isBeforeCommit(phase: string | undefined): boolean {
  return BEFORE_COMMIT.has(phase)
}

/** The Commit has left: the successor may have clients. */
export function isCommitted(phase: string | undefined): boolean {
  return phase === 'committing' || phase === 'probation'
}

/** The handoff can be given up, or taken back: another joiner is refused. */
export function refusesJoiners(phase: HolderPhase): boolean {
  return isBeforeCommit(phase) || phase === 'probation'
}

/** The handoff, or the way back, has not yet come to a member that serves. */
export function isUnderWay(phase: HolderPhase | undefined): boolean {
  return isBeforeCommit(phase) || phase === 'committing' || phase === 'returning'
}

/** A member has been given the right to serve, and a standby may still come back in its place. */
export function isGranted(phase: HolderPhase): boolean {
  return isCommitted(phase) || phase === 'returning'
}

/** A member may have taken the right to serve, or given it back, without its holder having heard of it. */
export function isUndecided(phase: HolderPhase): boolean {
  return phase === 'committing' || phase === 'returning' || phase === 'rebuilding'
}

/** Changes wait for the successor. */
export function waitsForSuccessor(phase: HolderPhase): boolean {
  return phase === 'preparing' || phase === 'committing'
}

/** The member accepts in place of all others. */
export function accepts(phase: MemberPhase): boolean {
  return ACCEPTS.has(phase)
}

/** The member accepts, or is to: no other has taken over from it. */
export function isCurrent(phase: MemberPhase): boolean {
  return CURRENT.has(phase)
}
