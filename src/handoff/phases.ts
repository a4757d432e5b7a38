/** The phases of a handoff and of a member, and what they mean outside of the two state machines. */

export type HolderPhase =
  | 'idle'
  /** The holder sends everything to the joiner, and waits for Ready. */
  | 'offering'
  /** The owner ends its once-only work; the holder waits for Quiesced. */
  | 'quiescing'
  /** The owner stops writing; the holder waits for Frozen. */
  | 'freezing'
  /** The owner's segment is sealed; the joiner reads the end of it, and the holder waits for Prepared. */
  | 'preparing'
  /** The holder has sent Commit, and waits for Serving with the epoch of the grant. */
  | 'committing'
  /** The owner serves; `standby` may come back until the owner has shown health. */
  | 'probation'
  /** The owner has the right again, and the holder waits for Serving; `joiner` is the successor that was rolled back. */
  | 'returning'
  /** A restarted daemon waits until every process that may have the right to write is back or proved dead. */
  | 'rebuilding'
  /** Embedded only: the right to decide has passed to the successor. Final. */
  | 'released'

export type MemberPhase =
  /** The member has sent Hello. It waits for the Offer or, if it `holds` the Offer, for the application to be ready. */
  | 'joining'
  /** The member has sent Ready: it could serve. */
  | 'ready'
  /** The member has the right to write in `epoch`: it accepts, and takes over what others wrote. */
  | 'beginning'
  /** The member accepts, and writes in `epoch`. */
  | 'serving'
  /** Like `serving`, but appends wait: a handoff is about to commit. */
  | 'frozen'
  /** Another process serves; the member keeps the listeners, so that it can serve again without binding. */
  | 'standby'
  /** The holder is dead or silent: the member accepts, so that no client is refused, and only reads. */
  | 'orphan'
  /** The member was told to serve but could not read what others wrote, or could not write: it accepts, and only reads. */
  | 'unfit'
  /** The listeners are closed; the last connections drain. */
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

/** The handoff can be given up, and the incumbent continues to write. */
export function isBeforeCommit(phase: string | undefined): boolean {
  return BEFORE_COMMIT.has(phase)
}

/** The holder has sent Commit: the successor may have clients. */
export function isCommitted(phase: string | undefined): boolean {
  return phase === 'committing' || phase === 'probation'
}

/** The holder refuses other joiners, because the handoff can still be given up or rolled back. */
export function refusesJoiners(phase: HolderPhase): boolean {
  return isBeforeCommit(phase) || phase === 'probation'
}

/** A handoff or a rollback is under way: no member has confirmed yet that it serves. */
export function isUnderWay(phase: HolderPhase | undefined): boolean {
  return isBeforeCommit(phase) || phase === 'committing' || phase === 'returning'
}

/** A member has been given the right to serve, and may still lose it to a standby. */
export function isGranted(phase: HolderPhase): boolean {
  return isCommitted(phase) || phase === 'returning'
}

/** The holder does not know for certain which member has the right to serve. */
export function isUndecided(phase: HolderPhase): boolean {
  return phase === 'committing' || phase === 'returning' || phase === 'rebuilding'
}

/** Changes wait for the successor. */
export function waitsForSuccessor(phase: HolderPhase): boolean {
  return phase === 'preparing' || phase === 'committing'
}

/** The member has the right to serve: it accepts, or starts to. */
export function accepts(phase: MemberPhase): boolean {
  return ACCEPTS.has(phase)
}

/** The member accepts or will accept: no other process has taken over from it. */
export function isCurrent(phase: MemberPhase): boolean {
  return CURRENT.has(phase)
}
