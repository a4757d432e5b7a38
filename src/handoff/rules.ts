/**
 * The rules of the handoff, each with the harm that follows without it.
 *
 * All rules are always on. The state machines take them as an argument only for the exhaustive exploration (`test/exploration`): the
 * exploration switches off each rule alone and must find the harm that is named here.
 *
 * Rules marked *resource* say what the drivers share between processes; the exploration's model of the kernel honours them. The rule marked
 * *kernel* says what the kernel can do. Without a rule marked *policy* no harm follows, only a delay. `test/exploration/needed.ts` names for
 * each rule the world that finds its absence: two processes (`sealFirst` to `promote`), or three (`forceSeal` and later).
 */
const NAMES = [
  /** The owner's segment is sealed before Commit is sent; else two processes write for a moment. */
  'sealFirst',
  /** A holder revokes the right of a process by sealing its segment, and the process checks the seal before it serves; else two serve. */
  'sealDecides',
  /** A process whose channel has ended counts as alive only after 100 ms, because its pidfd reports a death later; else the joiner of a dead incumbent leaves. */
  'grace',
  /** A successor that loses its channel to a living standby keeps serving until its segment is sealed; else both leave. */
  'serveOnAfterEof',
  /** No Offer while a standby may still come back (not released, not dead); else a third process writes that the standby does not know. */
  'release',
  /** No Offer while an earlier joiner that got descriptors may still be alive; else that joiner serves beside the new one. */
  'gone',
  /** A handoff that fails before Commit seals the joiner's segment too; else the joiner writes there later. */
  'thawSeal',
  /** The owner ends its once-only work before it is frozen; else the work runs in two processes. */
  'quiesceFirst',
  /** An owner that continues after a failed handoff starts its once-only work again; else the work runs in no process. */
  'workAgain',
  /** A client's request id in the log makes a retried change apply once. */
  'requestId',
  /** A forwarded change is refused only if it was never sent; else a refused change is applied. */
  'refuseUnsent',
  /**
   * *kernel* A holder can revoke the right of a living process, by sealing its segment. Off for segments without seals ({@link
   * WITHOUT_SEALS}): then a commit is final, and only a process that dies or gives up its right loses it.
   */
  'arbiter',
  /** *resource* The holder makes the successor's segment, and holder and successor hold it after the Offer. */
  'sharedSegment',
  /** *resource* The incumbent's way-back segment is shared in the Offer too; else what it writes there dies with it. */
  'sharedWayBack',
  /** A slice of connections is committed by a record in a move log that the receiver may seal; else a connection has two readers or none. */
  'moveLog',
  /** On a rollback the standby accepts before the successor's segment is sealed; else no process accepts for a moment. */
  'acceptFirst',
  /** Probation ends only after a recent report of health, never by a timer alone; else the listeners die with a stuck successor. */
  'releaseByHealth',
  /** A ready joiner serves when its incumbent is dead; else no process does. */
  'promote',
  /** At the Freeze deadline the holder seals whether Frozen came or not; else a stopped incumbent blocks every upgrade. */
  'forceSeal',
  /** *resource* Every process that may get the right to write has a segment before any process may write in it. */
  'shareAll',
  /** *resource* The same for way-back segments. */
  'spare',
  /** No process is told to stop before the other has sent Serving for the current grant. */
  'ackBack',
  /** *policy* Roll back only to a member that is connected; else writes wait for the deadline of the rollback. */
  'needOther',
  /** A member that lost its channel to a living holder reconnects and asks for its role. */
  'retryReturn',
  /** When the holder is dead, a member in standby accepts again and serves reads. */
  'orphanAccepts',
  /** When the holder is dead, a ready joiner accepts and serves reads. */
  'joinerAccepts',
  /** Members of a daemon never take the right to write themselves. */
  'noSelfPromotion',
  /** A restarted daemon seals every other segment before it names a writer. */
  'sealRest',
  /** A restarted daemon names a writer only when every process that may have the right is back or proved dead. */
  'rebuildWaits',
  /** A member sends Serving only after accept, carry and write have succeeded; else the incumbent retires although they failed. */
  'begun',
  /** A process that cannot take over reports Unfit, and the other living process gets the right; else no process may write. */
  'unfit',
  /** A successor whose segment is sealed waits, if it has a channel, for a message; else it leaves before the standby serves. */
  'awaitVerdict',
  /** A joiner that left before it got a descriptor does not block upgrades; else it blocks them as long as it lives. */
  'untaken',
  /** A member sends a lost Back again over a new channel; else the daemon waits for it for ever. */
  'backAgain',
] as const

export type Rules = Readonly<Record<(typeof NAMES)[number], boolean>>

export const RULES: Rules = Object.freeze(Object.fromEntries(NAMES.map(name => [name, true])) as Rules)

/** The rules for a service whose segments are files without seals. */
export const WITHOUT_SEALS: Rules = Object.freeze({ ...RULES, arbiter: false })
