/** The messages between holder and member, reduced to what decides. The wire (`proto/wire.proto`) carries more with them. */

/** A process in the eyes of a holder. The holder's own member (embedded hosting) has an id like any other. */
export type Id = number
export const NOBODY: Id = -1

/** The number of a segment, and of the right to write in it. Strictly increasing; never given twice. */
export type Epoch = number
export const NO_EPOCH: Epoch = -1

/** The contents of a handoff. `holder` (embedded): listeners, state, registry, epoch and control listener. `member` (daemon): the first two. */
export type Scope = 'holder' | 'member'

export type ToMember =
  /** Everything is with you: your segment, the incumbent's way back, and the segment that is written now. */
  | { readonly kind: 'offer'; readonly epoch: Epoch; readonly wayBack: Epoch; readonly source: Epoch }
  /** End what must run in one process only, and say so. `epoch`: of the successor; a late answer is not taken for another handoff's. */
  | { readonly kind: 'quiesce'; readonly epoch: Epoch }
  /** The handoff is off, and you were not frozen: begin it again. */
  | { readonly kind: 'unquiesce' }
  /** Stop appending and say where you stopped. */
  | { readonly kind: 'freeze' }
  /** The source is sealed: read its tail. */
  | { readonly kind: 'sealed' }
  /** Check the seals, accept, and write in this segment. */
  | { readonly kind: 'commit'; readonly epoch: Epoch }
  /** Stop accepting, keep the listeners: stand by. */
  | { readonly kind: 'retire' }
  /** Accept again; the right to write follows (way back: accept first). */
  | { readonly kind: 'resume' }
  /** Accept, and write in this segment. */
  | { readonly kind: 'reinstate'; readonly epoch: Epoch }
  /** The standby hears that it may not come back any more, the successor that the standby may not. */
  | { readonly kind: 'released' }
  /** You have lost your right. */
  | { readonly kind: 'fenced' }
  /** The handoff is off (before Commit). */
  | { readonly kind: 'abort' }

export type Role = 'ready' | 'serving' | 'frozen' | 'standby' | 'orphan'

export type ToHolder =
  | { readonly kind: 'ready' }
  | { readonly kind: 'quiesced'; readonly epoch: Epoch }
  | { readonly kind: 'frozen' }
  | { readonly kind: 'prepared' }
  | { readonly kind: 'serving'; readonly epoch: Epoch }
  /** I do not take over, and have closed what I was given. */
  | { readonly kind: 'abort' }
  /** I cannot read what others wrote, accept, or write: I serve reads at most. `epoch`: where I was to write, or my own on standby. */
  | { readonly kind: 'unfit'; readonly epoch: Epoch }
  /** I have closed my listeners. */
  | { readonly kind: 'gone' }
  /** I lost my channel; where do I stand? `top`: the highest epoch I know of. `sealed`: my segment is. */
  | {
      readonly kind: 'back'
      readonly role: Role
      readonly epoch: Epoch
      readonly sealed: boolean
      readonly top?: Epoch
      /** The member has said {@link ToHolder} `unfit`, and is so still. */
      readonly unfit?: boolean
    }
