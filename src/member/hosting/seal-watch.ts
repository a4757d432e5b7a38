import type { MemberState } from '../../handoff/member-machine.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { Leadership } from '../lifecycle/leadership.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { FencedWrites } from '../state/fenced-writes.js'

/** The interval at which a successor without a channel to its incumbent checks whether its segment is sealed. */
const CHECK_MS = 100

export interface SealWatchDeps {
  readonly machine: Pick<Machine, 'isReleased' | 'phase' | 'sealed' | 'step'> & {
    readonly member: Pick<MemberState, 'link' | 'scope'>
  }
  readonly shutdown: Pick<Shutdown, 'closing' | 'over'>
  readonly segmentSet: Pick<SegmentSet, 'rules'>
  readonly leadership: Pick<Leadership, 'quiesce'>
  readonly writes: Pick<FencedWrites, 'forward'>
}

/** Checks whether the segment of this process is sealed, so that another process serves, although no message has told it. */
export class SealWatch {
  readonly #deps: SealWatchDeps
  #timer: NodeJS.Timeout | undefined

  constructor(deps: SealWatchDeps) {
    this.#deps = deps
  }

  /** Passes the result to the state machine. */
  check(): void {
    const { leadership, machine, shutdown, writes } = this.#deps
    if (shutdown.over || !machine.sealed) return
    if (shutdown.closing && machine.phase === 'leaving') writes.forward()
    else {
      // The incumbent has sealed this segment to serve itself. If it is dead, this process starts the work again when it has taken over.
      const { scope, link } = machine.member
      if (scope === 'holder' && link !== 'local') void leadership.quiesce()
      machine.step({ type: 'sealed' })
    }
  }

  /** Without a channel the incumbent may serve again at any moment, unless segments cannot be sealed: then a commit is final. */
  get isNeeded(): boolean {
    const { machine, segmentSet } = this.#deps
    return machine.member.link === 'down' && segmentSet.rules.arbiter
  }

  /** While there is no channel to the incumbent, checks regularly whether this process was released or its segment was sealed. */
  start(): void {
    const { leadership, machine, shutdown } = this.#deps
    clearInterval(this.#timer)
    if (shutdown.over || machine.member.link !== 'down') return
    // The incumbent may live, and serve again. The work starts again when it is known to have ended, or to have released this process.
    if (this.isNeeded) void leadership.quiesce()
    this.#timer = setInterval(() => {
      if (machine.member.link !== 'down') this.stop()
      else if (machine.isReleased)
        machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
      else this.check()
    }, CHECK_MS)
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}
