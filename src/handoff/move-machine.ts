/**
 * Moving live connections in numbered slices between two processes, as pure functions. The **move log** decides about a slice (rule 10 of
 * the design): a memory file that both hold, in which the sender writes `moved(k)` before it drops its dups of slice k, or `back(k)` before
 * it reads from them again. The receiver may seal the log when it is in doubt. So neither a lost message nor a death leaves a connection
 * with two readers or with none.
 */
import { RULES, type Rules } from './rules.js'

export const NO_SLICE = 0

export interface MoveOut {
  /** Frozen, sent, not yet decided. */
  readonly pending: number
  /** Number of the last slice sent. */
  readonly last: number
  /** The receiver has sealed the log, or the channel is gone: nothing more is sent. */
  readonly over: boolean
}

export type MoveOutEvent =
  | { readonly type: 'start' }
  | { readonly type: 'ack'; readonly slice: number }
  /** The answer to `log`: false when the receiver has sealed the log. */
  | {
      readonly type: 'logged'
      readonly slice: number
      readonly record: 'moved' | 'back'
      readonly written: boolean
    }
  | { readonly type: 'lost' }
  | { readonly type: 'deadline' }

export type MoveOutEffect =
  /** Stop reading slice k, dup, send Prepare(k). */
  | { readonly type: 'prepare'; readonly slice: number }
  /** Append to the move log; `logged` follows at once. */
  | { readonly type: 'log'; readonly slice: number; readonly record: 'moved' | 'back' }
  /** Close the dups without a FIN, send Moved(k). */
  | { readonly type: 'drop'; readonly slice: number }
  /** Read from slice k again. */
  | { readonly type: 'takeBack'; readonly slice: number }

export function initialMoveOut(): MoveOut {
  return { pending: NO_SLICE, last: 0, over: false }
}

export function stepMoveOut(
  state: MoveOut,
  event: MoveOutEvent,
  rules: Rules = RULES,
): { state: MoveOut; effects: readonly MoveOutEffect[] } {
  const { pending } = state
  switch (event.type) {
    case 'start': {
      if (pending !== NO_SLICE || state.over) return { state, effects: [] }
      const slice = state.last + 1
      return { state: { ...state, pending: slice, last: slice }, effects: [{ type: 'prepare', slice }] }
    }
    case 'ack':
      if (pending === NO_SLICE || event.slice !== pending) return { state, effects: [] }
      if (!rules.moveLog)
        return { state: { ...state, pending: NO_SLICE }, effects: [{ type: 'drop', slice: pending }] }
      return { state, effects: [{ type: 'log', slice: pending, record: 'moved' }] }
    case 'logged':
      if (event.slice !== pending) return { state, effects: [] }
      if (event.record === 'moved' && event.written) {
        return { state: { ...state, pending: NO_SLICE }, effects: [{ type: 'drop', slice: pending }] }
      }
      // `back`, or a log that the receiver has sealed without a moved(k) in it: the receiver has let go.
      return {
        state: { ...state, pending: NO_SLICE, over: state.over || !event.written },
        effects: [{ type: 'takeBack', slice: pending }],
      }
    case 'lost':
    case 'deadline': {
      const over = state.over || event.type === 'lost'
      if (pending === NO_SLICE)
        return { state: over === state.over ? state : { ...state, over }, effects: [] }
      if (!rules.moveLog)
        return {
          state: { ...state, over, pending: NO_SLICE },
          effects: [{ type: 'takeBack', slice: pending }],
        }
      return { state: { ...state, over }, effects: [{ type: 'log', slice: pending, record: 'back' }] }
    }
  }
}

export interface MoveIn {
  /** Holds dups of this slice, has acknowledged, does not read from them. */
  readonly held: number
  /** The receiver has sealed the log: nothing more is taken. */
  readonly over: boolean
}

export type MoveInEvent =
  | { readonly type: 'prepare'; readonly slice: number }
  | { readonly type: 'moved'; readonly slice: number }
  /** The slice is in doubt (end of file or deadline), and the sender is alive or dead. */
  | { readonly type: 'doubt'; readonly sender: 'alive' | 'dead' }
  /** The answer to `consult`: what the log says of the slice. */
  | {
      readonly type: 'log'
      readonly slice: number
      readonly record: 'moved' | 'back' | 'nothing'
      readonly sender: 'alive' | 'dead'
    }

export type MoveInEffect =
  /** Dups received and verified: send Ack(k). */
  | { readonly type: 'acknowledge'; readonly slice: number }
  | { readonly type: 'adopt'; readonly slice: number }
  /** Close the dups: the sender reads from them. */
  | { readonly type: 'release'; readonly slice: number }
  /** Seal the log (so that the sender cannot decide any more), then read it; `log` follows at once. */
  | { readonly type: 'consult'; readonly slice: number; readonly sender: 'alive' | 'dead' }

export function initialMoveIn(): MoveIn {
  return { held: NO_SLICE, over: false }
}

export function stepMoveIn(
  state: MoveIn,
  event: MoveInEvent,
  rules: Rules = RULES,
): { state: MoveIn; effects: readonly MoveInEffect[] } {
  const { held } = state
  switch (event.type) {
    case 'prepare':
      if (state.over || held !== NO_SLICE) return { state, effects: [] }
      return {
        state: { ...state, held: event.slice },
        effects: [{ type: 'acknowledge', slice: event.slice }],
      }
    case 'moved':
      if (held === NO_SLICE || event.slice !== held) return { state, effects: [] }
      return { state: { ...state, held: NO_SLICE }, effects: [{ type: 'adopt', slice: held }] }
    case 'doubt':
      if (held === NO_SLICE) return { state, effects: [] }
      if (rules.moveLog) return { state, effects: [{ type: 'consult', slice: held, sender: event.sender }] }
      return {
        state: { ...state, held: NO_SLICE },
        effects: [{ type: event.sender === 'dead' ? 'adopt' : 'release', slice: held }],
      }
    case 'log': {
      if (event.slice !== held) return { state, effects: [] }
      const mine = event.record === 'moved' || (event.sender === 'dead' && event.record === 'nothing')
      return {
        state: { held: NO_SLICE, over: true },
        effects: [{ type: mine ? 'adopt' : 'release', slice: held }],
      }
    }
  }
}
