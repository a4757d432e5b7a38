/**
 * The rules of the handoff, each with the harm that is done without it.
 *
 * All rules are on, always; the state machines take them as an argument for one purpose: the exhaustive exploration (`test/exploration`)
 * switches each off alone and must find the harm that is named here. A rule without a detectable harm would be a superstition.
 *
 * Rules marked *resource* say what the drivers share between processes; the exploration's model of the kernel honours them. The rule marked
 * *kernel* says what the kernel can do. Rules marked *policy* choose between outcomes that are both sound. `test/exploration/needed.ts`
 * names for each rule the world in which its absence is caught: two parties (`sealFirst` to `promote`), or three (`forceSeal` on).
 */
export interface Rules {
  /** S(e) is sealed before Commit leaves; else two processes write for a moment. */
  readonly sealFirst: boolean
  /** To turn away from a process is to seal its segment first; it looks before it begins, and later; else two serve. */
  readonly deed: boolean
  /** Death is judged only after a grace: end of file comes before the pidfd tells; else a joiner whose incumbent just died leaves too. */
  readonly grace: boolean
  /** A successor serves on after losing its channel to a living standby, until its segment is sealed; else both leave. */
  readonly serveOnAfterEof: boolean
  /** No Offer while a standby may still come back (not released, not dead); else an unknown third party writes. */
  readonly release: boolean
  /** No Offer while an earlier joiner that was given descriptors is not gone or dead; else it serves beside the new one. */
  readonly gone: boolean
  /** A broken handoff before Commit seals the joiner's segment as well; else the joiner settles in it later. */
  readonly thawSeal: boolean
  /** The owner ends its once-only work before it is frozen; else the work runs in two processes. */
  readonly quiesceFirst: boolean
  /** An owner that goes on begins that again; else it runs in none. */
  readonly workAgain: boolean
  /** A client's request id in the log makes a retried change apply once. */
  readonly requestId: boolean
  /** A change that was forwarded is refused only where it was never sent; else it is refused and made. */
  readonly refuseUnsent: boolean
  /**
   * *kernel* A process that is alive can be turned away from: its segment is sealed. Off where the kernel seals nothing
   * ({@link WITHOUT_SEALS}): a commit is final then, and only a process that has died or has given up its right loses it.
   */
  readonly arbiter: boolean
  /** *resource* The successor's segment is made by the holder; both hold it from the Offer on. */
  readonly sharedSegment: boolean
  /** *resource* The incumbent's way-back segment is shared in the Offer too; else what it writes there dies with it. */
  readonly sharedWayBack: boolean
  /** A slice of connections is committed by a record in a move log that the receiver may seal; else a connection has two readers or none. */
  readonly moveLog: boolean
  /** Way back: accept first, then seal the other; else no process accepts for a moment. */
  readonly acceptFirst: boolean
  /** Probation ends by fresh evidence of health, never by a timer alone; else the listeners die with a stuck successor. */
  readonly releaseByHealth: boolean
  /** A joiner that is ready serves when its incumbent is dead; else no process does. */
  readonly promote: boolean
  /** The Freeze deadline is the holder's: it seals whether Frozen came or not; else a stopped incumbent blocks every upgrade. */
  readonly forceSeal: boolean
  /** *resource* Every rights-holder has a segment before anybody may write in it. */
  readonly shareAll: boolean
  /** *resource* Way-back segments too. */
  readonly spare: boolean
  /** No process is told to stop before the other has said Serving for the current grant. */
  readonly ackBack: boolean
  /** *policy* Turn away from one member only if the other is connected; else writes wait for the deadline of the way back. */
  readonly needOther: boolean
  /** A member that lost its channel to a living holder connects again and asks where it stands. */
  readonly retryReturn: boolean
  /** Holder dead: a member in stand-by accepts again (reads only). */
  readonly orphanAccepts: boolean
  /** Holder dead: a ready joiner accepts (reads only). */
  readonly joinerAccepts: boolean
  /** Members of a daemon never take the right to write on their own authority. */
  readonly noSelfPromotion: boolean
  /** A restarted daemon seals every other segment before it names a writer. */
  readonly sealRest: boolean
  /** A restarted daemon names a writer only when every rights-holder is back or proved dead. */
  readonly rebuildWaits: boolean
  /** Serving is said when accept, carry and write have succeeded, not when they were decided; else the one that serves well retires. */
  readonly begun: boolean
  /** A process that cannot take over says so, and the right goes back to the living successor; else no process may write. */
  readonly unfit: boolean
  /** A successor that has its channel waits for the word of the standby that sealed its segment; else it leaves before that one has come back. */
  readonly awaitWord: boolean
  /** A joiner that left before the kernel took a descriptor for it is not bound; else its process blocks every upgrade while it lives. */
  readonly untaken: boolean
  /** A Back that did not get through is said again, over a new channel; else the daemon waits for it for ever. */
  readonly backAgain: boolean
}

export const RULES: Rules = Object.freeze({
  sealFirst: true,
  deed: true,
  grace: true,
  serveOnAfterEof: true,
  release: true,
  gone: true,
  thawSeal: true,
  quiesceFirst: true,
  workAgain: true,
  requestId: true,
  refuseUnsent: true,
  arbiter: true,
  sharedSegment: true,
  sharedWayBack: true,
  moveLog: true,
  acceptFirst: true,
  releaseByHealth: true,
  promote: true,
  forceSeal: true,
  shareAll: true,
  spare: true,
  ackBack: true,
  needOther: true,
  retryReturn: true,
  orphanAccepts: true,
  joinerAccepts: true,
  noSelfPromotion: true,
  sealRest: true,
  rebuildWaits: true,
  begun: true,
  unfit: true,
  awaitWord: true,
  untaken: true,
  backAgain: true,
})

/** For a service whose segments are files without seals: two living processes never both come to write. */
export const WITHOUT_SEALS: Rules = Object.freeze({ ...RULES, arbiter: false })
