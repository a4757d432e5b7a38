/**
 * The rules of the handoff, each with the harm that follows without it.
 *
 * All rules are always on. The state machines take them as an argument only for the exhaustive exploration (`test/exploration`): the
 * exploration switches off each rule alone and must find the harm that is named here.
 *
 * The drivers keep the rules marked *resource*, which say which descriptors processes share; the exploration has a model of these. The rule
 * marked *kernel* says whether the kernel can seal. Without the rule marked *policy* only a delay follows. `test/exploration/needed.ts` has
 * for each rule the number of processes and the events with which the exploration finds the harm.
 */
const NAMES = [
  /** The owner's segment is sealed before Commit is sent; else two processes write for a moment. */
  'sealFirst',
  /** A holder revokes the right of a process by sealing its segment, and the process checks the seal before it serves; else two processes write. */
  'sealDecides',
  /** When a channel ends, its process counts as alive only 100 ms later, because a pidfd may report a death late; else the joiner of a dead incumbent leaves. */
  'grace',
  /** A successor that loses its channel to a living standby keeps serving until its segment is sealed; else both processes leave. */
  'serveOnAfterEof',
  /** The holder makes no Offer while a standby can still take over again; else the standby writes beside a third process. */
  'release',
  /** The holder makes no Offer while an earlier joiner that got descriptors may be alive; else that joiner writes beside the new one. */
  'gone',
  /** When a handoff fails before Commit, the holder seals the joiner's segment too; else the joiner writes there later, and the change is lost. */
  'thawSeal',
  /** The owner ends its once-only work before it is frozen; else the work runs in two processes. */
  'quiesceFirst',
  /** An owner that continues after a failed handoff starts its once-only work again; else the work runs in no process. */
  'workAgain',
  /** The log contains each client's request id; else a change that the client sends again is applied twice. */
  'requestId',
  /** A member refuses a change only if it has not forwarded it yet; else a refused change is applied. */
  'refuseUnsent',
  /**
   * *kernel* A holder can revoke the right of a living process, by sealing its segment. Off for segments without seals ({@link
   * WITHOUT_SEALS}): then a commit is final, and a process loses its right only when it dies or gives up the right.
   */
  'arbiter',
  /** *resource* The holder keeps a descriptor of the successor's segment, so that it can seal it; else two processes write. */
  'sharedSegment',
  /** *resource* The Offer also contains the segment for a rollback; else the changes that the incumbent writes there are lost when it dies. */
  'sharedWayBack',
  /** A record in a move log, which the receiver can seal, commits a slice of connections; else a connection has two readers or none. */
  'moveLog',
  /** In a rollback the standby accepts before the holder seals the successor's segment; else no process accepts for a moment. */
  'acceptFirst',
  /** Probation succeeds only after a recent report of health, not by a timer alone; else the listeners are lost with a stuck successor. */
  'releaseByHealth',
  /** A ready joiner serves when its incumbent is dead; else no process does. */
  'promote',
  /** At the Freeze deadline the holder seals whether Frozen came or not; else a stopped incumbent blocks every upgrade. */
  'forceSeal',
  /** *resource* Every process that may get the right to write receives a segment before any process writes in it; else changes are lost. */
  'shareAll',
  /** *resource* As `shareAll`, for the segments for a rollback. */
  'spare',
  /** The holder tells a process to stop only after the other one has sent Serving for the present grant; else no process accepts. */
  'ackBack',
  /** *policy* The holder rolls back only to a connected member; else changes wait until the deadline of the rollback. */
  'needOther',
  /** A member that loses its channel to a living holder reconnects and asks for its role; else the handoff waits for it for ever. */
  'retryReturn',
  /** When the holder is dead, a standby accepts again and serves reads; else clients connect and no process answers. */
  'orphanAccepts',
  /** As `orphanAccepts`, for a ready joiner. */
  'joinerAccepts',
  /** Members of a daemon never take the right to write themselves; else two processes write. */
  'noSelfPromotion',
  /** A restarted daemon seals all older segments before it gives the right to write; else changes written to them later are lost. */
  'sealRest',
  /** A restarted daemon gives the right only when every process that may have it has reconnected or is proved dead; else two write. */
  'rebuildWaits',
  /** A member sends Serving only after its effects accept, carry and write have succeeded; else the incumbent retires although they failed. */
  'begun',
  /** A process that cannot take over reports Unfit, and the holder gives the right to the other living one; else no process may write. */
  'unfit',
  /** A successor whose segment is sealed waits for a message if it has a channel; else it leaves before the standby serves. */
  'awaitVerdict',
  /** A joiner that left before the kernel took a descriptor for it does not block upgrades; else it blocks them as long as it lives. */
  'untaken',
  /** If sending Back fails, a member sends it again over a new channel; else the daemon waits for it for ever. */
  'backAgain',
] as const

export type Rules = Readonly<Record<(typeof NAMES)[number], boolean>>

export const RULES: Rules = Object.freeze(Object.fromEntries(NAMES.map(name => [name, true])) as Rules)

/** The rules for a service whose segments are files without seals. */
export const WITHOUT_SEALS: Rules = Object.freeze({ ...RULES, arbiter: false })
