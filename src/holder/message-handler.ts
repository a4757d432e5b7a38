import { isTooDeep, jsonValue } from '../base/json.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { EventFacts, EventType } from '../events/events.js'
import type { HolderEvent, HolderState } from '../handoff/holder-machine.js'
import { type Id, NOBODY, type ToHolder } from '../handoff/messages.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { type StatePosition, unpackToHolder } from '../wire/envelope.js'
import { remoteError, type WireEnvelope } from '../wire/link.js'
import { stateMismatch } from './failure-reasons.js'
import type { Peer } from './peer.js'

const GAVE_UP = { code: 'ERR_FDB_ABORTED', message: 'the successor gave up' } as const
const CANNOT_SERVE = { code: 'ERR_FDB_UNFIT', message: 'the process cannot serve' } as const

export interface HandlerContext {
  readonly host: HolderHost
  readonly logger: Logger
  peer(id: Id): Peer | undefined
  /** Sends a reconnected member the segments that were made while it had no channel. */
  catchUp(peer: Peer): void
  /** The peer asks the holder to let the standby take over. */
  rollBack(peer: Peer): void
}

/** Handles a message of a peer: records its contents in `peer`, and passes it to the state machine as an event. Owns `fds`. */
export function handleMessage(
  context: HandlerContext,
  peer: Peer,
  envelope: WireEnvelope,
  fds: OwnedFd[],
): void {
  const { heartbeat, endProbation } = envelope
  if (heartbeat) {
    closeAll(fds)
    recordHeartbeat(peer, heartbeat)
    context.host.onReport?.()
    if (peer.rollsBack) context.rollBack(peer)
    return
  }
  if (endProbation) {
    closeAll(fds)
    const { host } = context
    // The owner ends the service: release the standby even if the owner is not healthy. Releases up to 0.4.0 also sent this, without
    // `closing`, for a process that wants to join: but that one may fail, so the standby stays.
    if (endProbation.closing && peer.id === host.state().owner) host.dispatch({ type: 'healthy' })
    return
  }
  recordFacts(context, peer, envelope)
  const message = unpackToHolder(envelope)
  if (message !== null) {
    closeAll(fds)
    dispatchMessage(context, peer, message)
  } else if (!(context.host.otherMessage?.(peer, envelope, fds) ?? false)) closeAll(fds)
}

function recordHeartbeat(peer: Peer, heartbeat: NonNullable<WireEnvelope['heartbeat']>): void {
  peer.sendsHeartbeats = true
  peer.heartbeatAt = performance.now()
  peer.healthy = heartbeat.healthy ?? false
  peer.healthProblem = peer.healthy ? '' : (heartbeat.unwell ?? '').slice(0, REASON_CHARACTERS)
  if (peer.healthy) peer.healthyAt = peer.heartbeatAt
  peer.report = parseReport(heartbeat.report ?? '')
  peer.rollsBack = heartbeat.rollsBack ?? false
}

/** Records the contents that the state machine does not need: reasons, names and positions. */
function recordFacts({ host, logger }: HandlerContext, peer: Peer, envelope: WireEnvelope): void {
  const { abort, unfit, ready, frozen, prepared } = envelope
  if (abort) peer.reason = remoteError(abort, GAVE_UP)
  if (unfit) {
    const { code, message } = unfit
    const before = peer.reason?.message
    peer.reason = remoteError({ code, message }, CANNOT_SERVE)
    // A process may repeat its message.
    if (!host.state().unfit.includes(peer.id) && peer.reason.message !== before)
      logger.warn({ pid: peer.pid, err: peer.reason }, 'a process reports that it cannot serve')
  }
  if (ready) {
    peer.adopted = new Set([...(ready.adopted ?? []), ...peer.lateNames])
    peer.refused = new Set(ready.refused)
  }
  const position = ready?.position ?? frozen?.position ?? prepared?.position
  if (position) {
    const { epoch, sequence, digest } = position
    const text = (digest ?? '').slice(0, DIGEST_CHARACTERS)
    peer.position = { epoch: epoch ?? 0, sequence: sequence ?? 0, digest: text }
  }
}

function dispatchMessage(context: HandlerContext, peer: Peer, message: ToHolder): void {
  const { host } = context
  if (message.kind === 'prepared') {
    const mismatch = comparePositions(context, peer)
    if (mismatch !== null) {
      peer.reason = mismatch
      host.dispatch({ type: 'message', from: peer.id, message: { kind: 'abort' } })
      return
    }
  }
  const refusal = message.kind === 'ready' ? host.refusal?.(peer) : null
  if (refusal && peer.id === host.state().joiner) {
    peer.reason = refusal
    host.dispatch({ type: 'cancel' })
    return
  }
  if (message.kind === 'serving') {
    peer.served = true
    peer.heartbeatAt = peer.healthyAt = performance.now()
  }
  if (message.kind === 'back') {
    peer.returning = false
    peer.served = true
    host.onReturned?.(peer)
    context.catchUp(peer)
  }
  if (message.kind === 'gone') {
    peer.reason ??= leftReason(peer)
  }
  host.dispatch({ type: 'message', from: peer.id, message })
  if (message.kind === 'serving') host.onServing?.(peer)
  if (message.kind === 'gone' && !host.state().bound.includes(peer.id)) host.changed()
}

/** The reason of a successor that leaves to its standby by itself. */
export function leftReason(peer: Peer): FdbError {
  return new FdbError(
    'ERR_FDB_SUCCESSOR_LEFT',
    `process ${peer.pid} was told to end while another process stood by: ${requesterOf(peer) ?? 'its application closed it (for example at a signal)'}`,
  )
}

/** Returns the operator's request by which a process leaves, such as `fd-broker rollback by uid 0`; null if its application closes it. */
export function requesterOf({ report, rollsBack }: Peer): string | null {
  const { leaves } = (report ?? {}) as { leaves?: unknown }
  if (typeof leaves === 'string') return leaves.slice(0, REASON_CHARACTERS)
  // The members in Python and Go do not report the sender of an order.
  return rollsBack ? 'an operator has rolled it back' : null
}

/** Whether the process has reported that it accepts, and that it may not write: it did not hear of its holder for a while. */
export function isOrphan(peer: Peer | undefined): boolean {
  return ((peer?.report ?? {}) as { phase?: unknown }).phase === 'orphan'
}

/** Returns an error if the joiner's state differs from the owner's. */
function comparePositions({ host, peer: peerOf }: HandlerContext, peer: Peer): FdbError | null {
  const { owner, unfit } = host.state()
  const ours: StatePosition | null = host.position() ?? peerOf(owner)?.position ?? null
  // An unfit owner could not read the state: there is nothing to compare.
  if (ours === null || owner === NOBODY || unfit.includes(owner)) return null
  return stateMismatch(ours, peer.position)
}

/** A digest has 64 characters. */
const DIGEST_CHARACTERS = 128
/** A longer reason is cut off. */
const REASON_CHARACTERS = 500
/** A longer report is ignored. */
const REPORT_CHARACTERS = 4096

export function parseReport(text: string): unknown {
  if (text.length > REPORT_CHARACTERS || isTooDeep(text)) return null
  return jsonValue(text) ?? null
}

/** The functions that a holder calls in its process, which is an embedded server or a daemon. */
export interface HolderHost {
  state(): HolderState
  /** Steps the state machine and carries out its effects. */
  dispatch(event: HolderEvent): void
  /** Returns the descriptors that an Offer contains besides listeners and segments (embedded: control listener and lock). Borrowed. */
  extraItems(): BundleItem[]
  /** Embedded: returns the position of this process in the state log at its last freeze, or null. Daemon: returns null. */
  position(): StatePosition | null
  /** Whether the owner's `bulk()` is running, which would have to start again in a new segment. A daemon does not know, and has no such method. */
  amidBulk?(): boolean
  /** Daemon: a successor has sent Serving, so the names that it did not adopt may be dropped. */
  onServing?(peer: Peer): void
  /** A member has reported. */
  onReport?(): void
  changed(): void
  /** Records an event of the service. */
  note?(type: EventType, facts: EventFacts): void
  /** Daemon: false while the next daemon takes over, which continues the probation. If absent, always true. */
  probationMayEnd?(): boolean
  /** Handles a message that does not concern the handoff. Owns the descriptors. Returns false if the message is unknown. */
  otherMessage?(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean
  /** The receiver owns the descriptors. */
  bundle(peer: Peer, items: BundleItem[]): void
  /** Called when a reconnected member has sent all its descriptors and Back, before the state machine gets Back. */
  onReturned?(peer: Peer): void
  /** Called when the joiner is ready: why it may not take over; null if it may. */
  refusal?(peer: Peer): FdbError | null
  forgotten(peer: Peer): void
}
