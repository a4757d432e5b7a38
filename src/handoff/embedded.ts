/** Embedded hosting: the holder and its own member in one process. Messages between them are handled in place, in order. */

import {
  type HolderEffect,
  type HolderEvent,
  type HolderState,
  initialHolder,
  stepHolder,
} from './holder-machine.js'
import { type MemberEffect, type MemberEvent, type MemberState, stepMember } from './member-machine.js'
import type { Epoch, Id } from './messages.js'
import { RULES, type Rules } from './rules.js'

export interface Embedded {
  /** This process's own id. */
  readonly self: Id
  readonly member: MemberState
  /** The own holder, once this process decides for itself: from the start for the first, from the release on for a successor. */
  readonly holder: HolderState | null
}

export type EmbeddedEvent =
  | { readonly to: 'member'; readonly event: MemberEvent }
  | { readonly to: 'holder'; readonly event: HolderEvent }

/** `by`: a `send` of the member goes to its incumbent; a `tell` of the holder goes to a younger process. */
export type EmbeddedEffect =
  | { readonly by: 'member'; readonly effect: MemberEffect }
  | { readonly by: 'holder'; readonly effect: HolderEffect }

/** Whether the second is of no use when the first, of the same step, has failed. */
export function needs(failed: EmbeddedEffect, later: EmbeddedEffect): boolean {
  if (failed.by !== later.by) return false
  switch (failed.effect.type) {
    case 'accept':
    case 'carry':
    case 'write':
    case 'make':
      return true
    default:
      return false
  }
}

/** The machines that are joined. */
export interface Joined {
  readonly member: typeof stepMember
  readonly holder: typeof stepHolder
}

const JOINED: Joined = { member: stepMember, holder: stepHolder }

export interface EmbeddedStep {
  readonly state: Embedded
  readonly effects: readonly EmbeddedEffect[]
}

export function stepEmbedded(
  state: Embedded,
  event: EmbeddedEvent,
  /** F_GET_SEALS of a segment, now; asked when the holder tells its own member something. */
  isSealed: (epoch: Epoch) => boolean,
  rules: Rules = RULES,
  machines: Joined = JOINED,
): EmbeddedStep {
  let current = state
  const effects: EmbeddedEffect[] = []
  /** The current step seals this segment before. */
  const willBeSealed = (epoch: Epoch): boolean =>
    isSealed(epoch) ||
    effects.some(({ effect }) => effect.type === 'seal' && epoch >= effect.from && epoch < effect.below)

  /** `own`: its own holder says so, and hears the answer. */
  const toMember = (event: MemberEvent, own = false): void => {
    const step = machines.member(current.member, event, rules)
    current = { ...current, member: step.state }
    for (const effect of step.effects) {
      if (effect.type === 'send' && (own || current.member.link === 'local')) {
        // Left by a member that is its own holder: heard at once.
        if (current.holder !== null)
          toHolder({ type: 'message', from: current.self, message: effect.message })
        continue
      }
      if (effect.type === 'becomeHolder' && current.holder === null) {
        const { epoch, top } = current.member
        current = {
          ...current,
          holder: initialHolder('holder', current.self, epoch, top),
        }
      }
      effects.push({ by: 'member', effect })
    }
  }

  const toHolder = (event: HolderEvent): void => {
    if (current.holder === null) return
    const step = machines.holder(current.holder, event, rules)
    current = { ...current, holder: step.state }
    for (const effect of step.effects) {
      if (effect.type === 'tell' && effect.to === current.self) {
        const epoch = 'epoch' in effect.message ? effect.message.epoch : current.member.epoch
        toMember({ type: 'message', message: effect.message, sealed: willBeSealed(epoch) }, true)
      } else {
        effects.push({ by: 'holder', effect })
      }
    }
  }

  if (event.to === 'holder') toHolder(event.event)
  // A word of a former incumbent, on its way when it released or died: it decides nothing here any more.
  else if (event.event.type !== 'message' || current.member.link !== 'local') toMember(event.event)
  return { state: current, effects }
}
