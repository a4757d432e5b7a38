import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import type { HolderEvent, HolderState } from '../handoff/holder-state.js'
import { type Id, NOBODY, type ToHolder } from '../handoff/messages.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { type StatePosition, unpackToHolder } from '../wire/envelope.js'
import { remoteError, type WireEnvelope } from '../wire/link.js'
import { difference } from './failure-reasons.js'
import type { Peer } from './peer.js'

const GAVE_UP = { code: 'ERR_FDB_ABORTED', message: 'the successor gave up' } as const
const CANNOT_SERVE = { code: 'ERR_FDB_UNFIT', message: 'it cannot serve' } as const

export interface MessageEffects {
  readonly host: HolderHost
  readonly logger: Logger
  peer(id: Id): Peer | undefined
  /** A process waits to join. */
  endProbation(): void
  /** A member that came back hears what it has missed. */
  catchUp(peer: Peer): void
}

/** Takes one message of a peer: notes what it says of itself, and tells the machine what decides. Owns the descriptors. */
export function handleMessage(
  heard: MessageEffects,
  peer: Peer,
  envelope: WireEnvelope,
  fds: OwnedFd[],
): void {
  const { heartbeat, endProbation } = envelope
  if (heartbeat) {
    closeAll(fds)
    noteHeartbeat(peer, heartbeat)
    return
  }
  if (endProbation) {
    closeAll(fds)
    const { host } = heard
    // A process that ends the service has no standby after it, healthy or not.
    if (endProbation.closing && peer.id === host.state().owner) host.dispatch({ type: 'healthy' })
    else heard.endProbation()
    return
  }
  noteFacts(heard, peer, envelope)
  const message = unpackToHolder(envelope)
  if (message !== null) {
    closeAll(fds)
    decide(heard, peer, message)
  } else if (!(heard.host.other?.(peer, envelope, fds) ?? false)) closeAll(fds)
}

function noteHeartbeat(peer: Peer, heartbeat: NonNullable<WireEnvelope['heartbeat']>): void {
  peer.beats = true
  peer.beatAt = performance.now()
  peer.healthy = heartbeat.healthy ?? false
  peer.unwell = peer.healthy ? '' : (heartbeat.unwell ?? '').slice(0, REASON_CHARACTERS)
  if (peer.healthy) peer.wellAt = peer.beatAt
  peer.report = parseReport(heartbeat.report ?? '')
}

/** Records the facts beside the deciding part. */
function noteFacts({ logger }: MessageEffects, peer: Peer, envelope: WireEnvelope): void {
  const { abort, unfit, ready, frozen, prepared } = envelope
  if (abort) peer.reason = remoteError(abort, GAVE_UP)
  if (unfit) {
    const { code, message } = unfit
    peer.reason = remoteError({ code, message }, CANNOT_SERVE)
    logger.warn({ pid: peer.pid, err: peer.reason }, 'a process says that it cannot come to serve')
  }
  if (ready) peer.adopted = new Set([...(ready.adopted ?? []), ...peer.late])
  const said = ready?.position ?? frozen?.position ?? prepared?.position
  if (said)
    peer.position = { epoch: said.epoch ?? 0, sequence: said.sequence ?? 0, digest: said.digest ?? '' }
}

function decide(heard: MessageEffects, peer: Peer, message: ToHolder): void {
  const { host } = heard
  if (message.kind === 'prepared') {
    const other = readOtherwise(heard, peer)
    if (other !== null) {
      peer.reason = other
      host.dispatch({ type: 'message', from: peer.id, message: { kind: 'abort' } })
      return
    }
  }
  if (message.kind === 'serving') peer.beatAt = peer.wellAt = performance.now()
  if (message.kind === 'back') {
    peer.returning = false
    host.takeBack?.(peer)
    heard.catchUp(peer)
  }
  if (message.kind === 'gone') {
    peer.reason ??= new FdbError(
      'ERR_FDB_SUCCESSOR_LEFT',
      `process ${peer.pid} was told to end while another stood by: ${whyLeft(peer)}`,
    )
  }
  host.dispatch({ type: 'message', from: peer.id, message })
  if (message.kind === 'serving') host.settled?.(peer)
  if (message.kind === 'gone' && !host.state().bound.includes(peer.id)) host.changed?.()
}

function whyLeft({ report }: Peer): string {
  const { leaves } = (report ?? {}) as { leaves?: unknown }
  if (typeof leaves !== 'string') return 'its application closed it (at a signal, say)'
  return leaves.slice(0, REASON_CHARACTERS)
}

/** Both sides must have come to the same state at the commit's sequence. */
function readOtherwise({ host, peer: peerOf }: MessageEffects, peer: Peer): FdbError | null {
  const { owner, unfit } = host.state()
  const ours: StatePosition | null = host.position() ?? peerOf(owner)?.position ?? null
  // One that could not read what others wrote has nothing to compare with.
  if (ours === null || owner === NOBODY || unfit.includes(owner)) return null
  return difference(ours, peer.position)
}

/** The most characters of a reason; the rest is cut off. */
const REASON_CHARACTERS = 500
/** A report is a line for `status`; what is longer is none. */
const REPORT_CHARACTERS = 4096

export function parseReport(text: string): unknown {
  if (text === '' || text.length > REPORT_CHARACTERS) return null
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** The parts of its process that a holder uses. */
export interface HolderHost {
  /** The machine's state now. */
  state(): HolderState
  /** Steps the machine and has its effects carried out. */
  dispatch(event: HolderEvent): void
  /** Further descriptors of an offer (embedded: control listener and lock). Borrowed. */
  extraItems(): BundleItem[]
  /** The own member's last position in the state (embedded), else null. */
  position(): StatePosition | null
  /** The owner appends a large bulk (embedded), which would start again in another segment. Absent: unknown. */
  amidBulk?(): boolean
  /** A joiner said what it has adopted (daemon: names that it does not want may go after commit). */
  settled?(peer: Peer): void
  /** Something that `status` shows has changed. */
  changed?(): void
  /** Further messages of a member. Owns the descriptors. Returns whether it knew the message. */
  other?(peer: Peer, envelope: WireEnvelope, fds: OwnedFd[]): boolean
  /** The receiver owns the descriptors. Absent: members send none here. */
  bundle?(peer: Peer, items: BundleItem[]): void
  /** A member that came back has sent all it holds; the machine hears of it next. */
  takeBack?(peer: Peer): void
  /** The peer is forgotten for good. */
  forgotten?(peer: Peer): void
}
