/** Embedded hosting: the holder and its own member are in one process, and exchange messages by function calls. */

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
  readonly self: Id
  readonly member: MemberState
  /** The first process of a service has a holder from the start, a successor after its incumbent has released it or died; until then null. */
  readonly holder: HolderState | null
}

export type EmbeddedEvent =
  | { readonly to: 'member'; readonly event: MemberEvent }
  | { readonly to: 'holder'; readonly event: HolderEvent }

/** The member's `send` goes to the incumbent; the holder's `tell` goes to the successor. */
export type EmbeddedEffect =
  | { readonly by: 'member'; readonly effect: MemberEffect }
  | { readonly by: 'holder'; readonly effect: HolderEffect }

/** Whether `later` must be skipped because `failed`, an effect of the same step, has failed. */
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

/** The two state machines. The exploration (`test/exploration`) also passes defective ones. */
interface Machines {
  readonly member: typeof stepMember
  readonly holder: typeof stepHolder
}

const MACHINES: Machines = { member: stepMember, holder: stepHolder }

export function stepEmbedded(
  state: Embedded,
  event: EmbeddedEvent,
  /** Whether a segment is sealed. Called when the holder sends a message to its own member. */
  isSealed: (epoch: Epoch) => boolean,
  rules: Rules = RULES,
  machines: Machines = MACHINES,
): { readonly state: Embedded; readonly effects: readonly EmbeddedEffect[] } {
  let current = state
  const effects: EmbeddedEffect[] = []
  /** Includes segments that earlier effects of this step will seal. */
  const willBeSealed = (epoch: Epoch): boolean =>
    isSealed(epoch) ||
    effects.some(({ effect }) => effect.type === 'seal' && epoch >= effect.from && epoch < effect.below)

  /** `own`: the event comes from the holder of this process, so the member's messages go back to it. */
  const toMember = (event: MemberEvent, own = false): void => {
    const step = machines.member(current.member, event, rules)
    current = { ...current, member: step.state }
    for (const effect of step.effects) {
      if (effect.type === 'send' && (own || current.member.link === 'local')) {
        // The holder is in this process: pass the message to it at once.
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
  // A member with a holder of its own ignores late messages of its former incumbent, which has released it or died.
  else if (event.event.type !== 'message' || current.member.link !== 'local') toMember(event.event)
  return { state: current, effects }
}
