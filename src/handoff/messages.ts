/** The messages between holder and member, reduced to what the state machines need. `proto/wire.proto` has the complete ones. */

/** A holder's number for a process. The holder's own member (embedded hosting) has a number too. */
export type Id = number
export const NOBODY: Id = -1

/** The number of a segment. The right to write in the segment has the same number. Numbers only increase, and no number is used twice. */
export type Epoch = number
export const NO_EPOCH: Epoch = -1

/** `member` (daemon hosting): a handoff moves listeners and state. `holder` (embedded): it also moves the registry, the epoch and the control listener. */
export type Scope = 'holder' | 'member'

export type ToMember =
  /** All descriptors have been sent. `epoch`: the joiner's segment; `source`: the incumbent's, and `wayBack`: its segment after a rollback. */
  | { readonly kind: 'offer'; readonly epoch: Epoch; readonly wayBack: Epoch; readonly source: Epoch }
  /** End the once-only work, then send Quiesced with the same `epoch`, which is the successor's and tells the handoffs apart. */
  | { readonly kind: 'quiesce'; readonly epoch: Epoch }
  /** The handoff failed before Freeze: start the once-only work again. */
  | { readonly kind: 'unquiesce' }
  /** Stop appending, then send Frozen with the position. */
  | { readonly kind: 'freeze' }
  /** The incumbent's segment is sealed: read it to the end, then send Prepared. */
  | { readonly kind: 'sealed' }
  /** Check the seals, accept, and write in this segment. */
  | { readonly kind: 'commit'; readonly epoch: Epoch }
  /** Stop accepting, but keep the listeners: stand by. */
  | { readonly kind: 'retire' }
  /** Accept again; Reinstate follows with the right to write. */
  | { readonly kind: 'resume' }
  /** Accept, and write in this segment. */
  | { readonly kind: 'reinstate'; readonly epoch: Epoch }
  /** Probation is over: the standby cannot take over any more and leaves. In embedded hosting the successor becomes the holder. */
  | { readonly kind: 'released' }
  /** The receiver has lost its right to write. */
  | { readonly kind: 'fenced' }
  /** The handoff has failed before Commit. */
  | { readonly kind: 'abort' }

export type Role = 'ready' | 'serving' | 'frozen' | 'standby' | 'orphan'

export type ToHolder =
  | { readonly kind: 'ready' }
  | { readonly kind: 'quiesced'; readonly epoch: Epoch }
  | { readonly kind: 'frozen' }
  | { readonly kind: 'prepared' }
  | { readonly kind: 'serving'; readonly epoch: Epoch }
  /** The joiner does not take over, and has closed all descriptors. */
  | { readonly kind: 'abort' }
  /** The member cannot take over, at most serve reads. `epoch`: the segment of the grant; in standby, the member's own. */
  | { readonly kind: 'unfit'; readonly epoch: Epoch }
  /** The member has closed its listeners. */
  | { readonly kind: 'gone' }
  /** The member has reconnected and asks for its role. `top`: the highest epoch that it knows. `sealed`: whether its segment is sealed. */
  | {
      readonly kind: 'back'
      readonly role: Role
      readonly epoch: Epoch
      readonly sealed: boolean
      readonly top?: Epoch
      /** The member is still unfit. */
      readonly unfit?: boolean
    }
