import { EffectQueue } from '../../src/handoff/effect-queue.js'
import { type EmbeddedEffect, needs } from '../../src/handoff/embedded.js'
import { stepHolder } from '../../src/handoff/holder-machine.js'
import { stepMember } from '../../src/handoff/member-machine.js'
import { stepMoveIn, stepMoveOut } from '../../src/handoff/move-machine.js'

/** The sources that a world runs. A test of the exploration itself replaces one of them by a defective one. */
export interface Parts {
  readonly member: typeof stepMember
  readonly holder: typeof stepHolder
  readonly moveOut: typeof stepMoveOut
  readonly moveIn: typeof stepMoveIn
  readonly queue: new <Effect>(
    ...parts: ConstructorParameters<typeof EffectQueue<Effect>>
  ) => Pick<EffectQueue<Effect>, 'push'>
  readonly needs: (failed: EmbeddedEffect, later: EmbeddedEffect) => boolean
  /**
   * A forwarded change is refused when its author has heard nothing for some time, and not only when the change's own time is over. No
   * machine decides that: the forwarder (src/member/writes) has timers. The world takes a busy writer to answer within the change's time.
   */
  readonly impatient: boolean
}

export const PARTS: Parts = {
  member: stepMember,
  holder: stepHolder,
  moveOut: stepMoveOut,
  moveIn: stepMoveIn,
  queue: EffectQueue,
  needs,
  impatient: false,
}
