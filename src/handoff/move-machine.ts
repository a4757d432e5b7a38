/**
 * Moves live connections in numbered slices between two processes, as pure functions. The **move log**, a memory file that both processes
 * hold, shows which process owns slice k. The sender writes `moved(k)` before it closes its descriptors of the slice, or `back(k)` before it
 * reads from them again. If no message arrives, the receiver seals and reads the log. So neither a lost message nor a death leaves a
 * connection with two readers or none.
 */
import { RULES, type Rules } from './rules.js'

export const NO_SLICE = 0

export interface MoveOut {
  /** The slice that was sent and is not yet decided. */
  readonly pending: number
  /** The number of the last slice sent. */
  readonly last: number
  /** The receiver has sealed the log, or the channel is lost: the sender sends no more slices. */
  readonly over: boolean
}

export type MoveOutEvent =
  | { readonly type: 'start' }
  | { readonly type: 'ack'; readonly slice: number }
  /** The answer to `log`. `written`: false if the receiver has sealed the log. */
  | {
      readonly type: 'logged'
      readonly slice: number
      readonly record: 'moved' | 'back'
      readonly written: boolean
    }
  | { readonly type: 'lost' }
  | { readonly type: 'deadline' }

export type MoveOutEffect =
  /** Stop reading the connections of slice k, and send them with Prepare(k). */
  | { readonly type: 'prepare'; readonly slice: number }
  /** Append the record to the move log; the event `logged` follows at once. */
  | { readonly type: 'log'; readonly slice: number; readonly record: 'moved' | 'back' }
  /** Close the descriptors of slice k without a FIN, and send Moved(k). */
  | { readonly type: 'drop'; readonly slice: number }
  /** Read the connections of slice k again. */
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
      // The log has `back`, or the receiver sealed it without `moved`: in both cases the receiver releases the slice.
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
  /** The slice that the receiver has acknowledged and does not read from yet. */
  readonly held: number
  /** The receiver has sealed the log: it takes no more slices. */
  readonly over: boolean
}

export type MoveInEvent =
  | { readonly type: 'prepare'; readonly slice: number }
  | { readonly type: 'moved'; readonly slice: number }
  /** The channel or the time has ended before Moved arrived. `sender`: whether the sender is alive. */
  | { readonly type: 'doubt'; readonly sender: 'alive' | 'dead' }
  /** The answer to `consult`: the log's record of the slice. */
  | {
      readonly type: 'log'
      readonly slice: number
      readonly record: 'moved' | 'back' | 'nothing'
      readonly sender: 'alive' | 'dead'
    }

export type MoveInEffect =
  /** Send Ack(k): the connections of slice k are received and verified. */
  | { readonly type: 'acknowledge'; readonly slice: number }
  | { readonly type: 'adopt'; readonly slice: number }
  /** Close the received descriptors, because the sender reads the connections. */
  | { readonly type: 'release'; readonly slice: number }
  /** Seal the log, so that the sender cannot append to it any more, then read it; the event `log` follows at once. */
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
