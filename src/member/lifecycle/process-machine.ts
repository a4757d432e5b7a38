import { EffectQueue, type Outcome } from '../../handoff/effect-queue.js'
import {
  type Embedded,
  type EmbeddedEffect,
  type EmbeddedEvent,
  needs,
  stepEmbedded,
} from '../../handoff/embedded.js'
import type { HolderEvent, HolderState } from '../../handoff/holder-machine.js'
import { initialMember, type MemberEvent, type MemberState } from '../../handoff/member-machine.js'
import type { Epoch, Id, Scope } from '../../handoff/messages.js'
import type { MemberPhase } from '../../handoff/phases.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { ChangeNotifier } from '../../wire/pending.js'

/** The id of this process in its own holder. */
export const SELF: Id = 0

/** The facts that a process knows of its service when it starts. */
export interface Origin {
  readonly generation: number
  readonly serviceStartedAt: number
  readonly scope: Scope
}

export interface MachineDriver {
  /** The next effect waits for the promise. */
  perform(effect: EmbeddedEffect): void | Promise<void>
  outcome(effect: EmbeddedEffect, outcome: Outcome): void
  /** Called after each step, when its effects are queued. */
  stepped(event: EmbeddedEvent, before: MemberState): void
}

/** The state machines of one process: the member's and, if the process has its own holder, the holder's. Queues their effects. */
export class Machine {
  /** Notified after each step, when everything is released, and when another fact has changed for which a part of the member waits. */
  readonly changes = new ChangeNotifier()
  readonly #segmentSet: SegmentSet
  readonly #driver: MachineDriver
  readonly #queue: EffectQueue<EmbeddedEffect>
  #state: Embedded

  constructor(scope: Scope, segmentSet: SegmentSet, driver: MachineDriver) {
    this.#segmentSet = segmentSet
    this.#driver = driver
    this.#state = { self: SELF, member: initialMember(scope), holder: null }
    this.#queue = new EffectQueue<EmbeddedEffect>({
      perform: effect => driver.perform(effect),
      outcome: (effect, outcome) => driver.outcome(effect, outcome),
      needs,
    })
  }

  get member(): MemberState {
    return this.#state.member
  }

  /** The state of this process's own holder. Null until the incumbent has released this process, and always in daemon hosting. */
  get holder(): HolderState | null {
    return this.#state.holder
  }

  get phase(): MemberPhase {
    return this.#state.member.phase
  }

  /** Whether the segment in which this process writes or will write is sealed. */
  get sealed(): boolean {
    return this.isSealed(this.#state.member.epoch)
  }

  isSealed(epoch: Epoch): boolean {
    return this.#segmentSet.isSealed(epoch)
  }

  /** Whether the holder has marked that segment: it has released this process. */
  get isReleased(): boolean {
    return this.#segmentSet.isReleased(this.#state.member.epoch)
  }

  /** Whether another process acts for the holder, which did not answer, and starts another successor. */
  get isClaimed(): boolean {
    return this.#segmentSet.isClaimedFrom(this.#state.member.source)
  }

  /** Sets the state of a process that gets no Offer. Call before the first event. */
  assume(known: Partial<MemberState>): void {
    this.#state = { ...this.#state, member: { ...this.#state.member, ...known } }
  }

  step(event: MemberEvent): void {
    this.dispatch({ to: 'member', event })
  }

  stepHolder(event: HolderEvent): void {
    this.dispatch({ to: 'holder', event })
  }

  dispatch(event: EmbeddedEvent): void {
    const before = this.#state.member
    const { state, effects } = stepEmbedded(
      this.#state,
      event,
      epoch => this.isSealed(epoch),
      this.#segmentSet.rules,
    )
    this.#state = state
    this.#queue.push(effects)
    this.#driver.stepped(event, before)
  }

  /** Resolves when the queue of effects is empty. */
  settled(): Promise<void> {
    return this.#queue.settled()
  }
}
