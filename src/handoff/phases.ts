/** The phases of a handoff and of a member, with questions that files outside of the state machines ask about a phase. */

export type HolderPhase =
  | 'idle'
  /** The holder sends all descriptors to the joiner, and waits for Ready. */
  | 'offering'
  /** The owner ends its once-only work; the holder waits for Quiesced. */
  | 'quiescing'
  /** The owner stops writing; the holder waits for Frozen. */
  | 'freezing'
  /** The owner's segment is sealed; the joiner reads it to the end, and the holder waits for Prepared. */
  | 'preparing'
  /** The holder has sent Commit, and waits for Serving. */
  | 'committing'
  /** The successor is the owner and serves; the standby can take over again until the owner has reported health. */
  | 'probation'
  /** The owner has the right to write again, and the holder waits for Serving; `joiner` is the successor that was rolled back. */
  | 'returning'
  /** A restarted daemon waits until every process that may have the right to write has reconnected or is proved dead. */
  | 'rebuilding'
  /** Embedded only: the successor is the holder now. Final. */
  | 'released'

export type MemberPhase =
  /** The member has sent Hello, and waits for the Offer or, if it `holds` the Offer, for the application to be ready. */
  | 'joining'
  /** The member has sent Ready: it could serve. */
  | 'ready'
  /** The member has the right to write in `epoch`: it accepts, and reads what others wrote before. */
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

const REPLACED: ReadonlySet<MemberPhase> = new Set(['standby', 'orphan', 'leaving'])

/** Whether the handoff can still be given up, so that the incumbent continues to write. */
export function isBeforeCommit(phase: string | undefined): boolean {
  return BEFORE_COMMIT.has(phase)
}

/** Whether the holder has sent Commit, so that the successor may have clients. */
export function isCommitted(phase: string | undefined): boolean {
  return phase === 'committing' || phase === 'probation'
}

/** Whether the holder refuses other joiners, because the handoff can still be given up or rolled back. */
export function refusesJoiners(phase: HolderPhase): boolean {
  return isBeforeCommit(phase) || phase === 'probation'
}

/** Whether a handoff or a rollback is under way in which no member has sent Serving yet. */
export function isUnderWay(phase: HolderPhase | undefined): boolean {
  return isBeforeCommit(phase) || phase === 'committing' || phase === 'returning'
}

/** Whether the present handoff has given the right to serve to a member, which may still lose it to another one. */
export function isGranted(phase: HolderPhase): boolean {
  return isCommitted(phase) || phase === 'returning'
}

/** Whether the holder does not know for certain which member serves. */
export function isUndecided(phase: HolderPhase): boolean {
  return phase === 'committing' || phase === 'returning' || phase === 'rebuilding'
}

/** Whether changes wait for the successor. */
export function waitsForSuccessor(phase: HolderPhase): boolean {
  return phase === 'preparing' || phase === 'committing'
}

/** Whether the member has the right to write, through Commit, Reinstate or the incumbent's death: then the member accepts, or starts to. */
export function accepts(phase: MemberPhase): boolean {
  return ACCEPTS.has(phase)
}

/** Whether the member accepts or will accept, because no other process has taken over from it. */
export function isCurrent(phase: MemberPhase): boolean {
  return CURRENT.has(phase)
}

/** Whether the member has no right to write, and reads what the process with the right writes. */
export function isReplaced(phase: MemberPhase): boolean {
  return REPLACED.has(phase)
}
