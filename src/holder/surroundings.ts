import type { HolderEvent, HolderState } from '../handoff/holder-machine.js'
import type { OwnedFd } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'
import type { StatePosition } from '../wire/envelope.js'
import type { WireEnvelope } from '../wire/link.js'
import type { Peer } from './peer.js'

/** What a holder needs from the process that it lives in. */
export interface Surroundings {
  /** The machine's state now. */
  state(): HolderState
  /** Steps the machine and has its effects carried out. */
  dispatch(event: HolderEvent): void
  /** Further descriptors of an offer (embedded: control listener and lock). Borrowed. */
  extraItems(): BundleItem[]
  /** What the own member last said of the state (embedded), else null. */
  position(): StatePosition | null
  /** The owner appends a large bulk (embedded), which would begin anew in another segment. Absent: nobody here knows. */
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
