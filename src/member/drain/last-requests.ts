import type { MemberState } from '../../handoff/member-machine.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { settledOf } from '../lifecycle/end-order.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { OwnListeners } from '../listeners/own-listeners.js'
import type { ConnectionDrain } from './connection-drain.js'

interface LastRequestsDeps {
  readonly machine: Pick<Machine, 'changes' | 'phase'> & {
    readonly member: Pick<MemberState, 'link' | 'scope'>
  }
  readonly shutdown: Pick<
    Shutdown,
    'endsListeners' | 'isFollowed' | 'order' | 'over' | 'rollsBack' | 'yields'
  >
  readonly hosting: () => Pick<Hosting, 'isHandingOver' | 'standsBy'>
  readonly listeners: () => Pick<OwnListeners, 'all' | 'stop' | 'unlisten'>
  readonly connections: Pick<ConnectionDrain, 'run'>
  /** Resolves when all changes that the application has requested are made. */
  readonly settled: () => Promise<void>
}

/** The phases of a process with the right to write. A daemon that was started again, or that renews the segment, gives it again (`beginning`). */
const SERVES: ReadonlySet<MemberPhase> = new Set(['beginning', 'serving', 'frozen'])

/**
 * The last requests of a process that leaves its daemon without a successor. When it has left, it writes no more: a request that changes the state would
 * wait for a next version until its connection is closed. So these requests are answered before.
 */
export class LastRequests {
  readonly #deps: LastRequestsDeps

  constructor(deps: LastRequestsDeps) {
    this.#deps = deps
  }

  /** Whether the process leaves a daemon without a successor. The daemon may be dead: this process keeps the right to write. */
  get expected(): boolean {
    const { machine, shutdown } = this.#deps
    return (
      machine.member.scope === 'member' && SERVES.has(machine.phase) && !this.#isTaken && !shutdown.rollsBack
    )
  }

  /** Whether another process takes the requests. A standby does so only if a daemon lives that gives the right to it. */
  get #isTaken(): boolean {
    const { machine, shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    const isStoodBy = shutdown.order.handBack && hosting.standsBy && machine.member.link === 'up'
    return shutdown.yields || hosting.isHandingOver || isStoodBy
  }

  /**
   * Resolves when no connection is left and no other worker changes the state through this one, when a next version joins or the standby can take over, or
   * when this process must leave to end in time: with whether a next version has joined.
   */
  async answer(): Promise<boolean> {
    const { connections, machine, settled, shutdown } = this.#deps
    const hosting = this.#deps.hosting()
    this.#stopAccepting()
    const answered = settledOf(machine.changes, connections.run(false).then(settled))
    const isDone = () => answered() && !shutdown.isFollowed
    const over = () => isDone() || shutdown.over || this.#isTaken || !SERVES.has(machine.phase)
    await shutdown.order.untilLeaving(machine.changes, over, Number.POSITIVE_INFINITY)
    return hosting.isHandingOver
  }

  /** A daemon keeps the listeners, whose clients wait for the next version; a main process that ends does not. */
  #stopAccepting(): void {
    const listeners = this.#deps.listeners()
    if (this.#deps.shutdown.endsListeners) for (const { name } of listeners.all) listeners.unlisten(name)
    else listeners.stop()
  }
}
