import type { MemberState } from '../../handoff/member-machine.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { FencedWrites } from '../state/fenced-writes.js'
import type { ConnectionDrain } from './connection-drain.js'
import type { ReportLink } from './report-link.js'

interface OwnDrainDeps {
  readonly machine: Pick<Machine, 'step'> & { readonly member: Pick<MemberState, 'link'> }
  readonly shutdown: Pick<Shutdown, 'isRetired' | 'leave' | 'serviceEnds' | 'yields'>
  readonly hosting: () => Pick<Hosting, 'isHandingOver' | 'released' | 'standsBy'>
  readonly writes: Pick<FencedWrites, 'leave'>
  readonly reportLink: Pick<ReportLink, 'open'>
  readonly connections: Pick<ConnectionDrain, 'beginMoving' | 'run'>
}

/**
 * The work of this process after another one has replaced it. From its Retire on its clients' changes go to the process that serves (`FencedWrites`),
 * and its once-only work has ended (`Leadership`). In the probation: {@link standBy}; after the probation, until its process ends: {@link leave}.
 * In the probation an embedded holder judges the next version, too (`Probation`); orders to reload go to the next version (`Reloading`), and systemd's
 * main process is still this one (`Announcer`). Timers and jobs that the application has not limited (`member.whileServing()`) run on until the process ends.
 */
export class OwnDrain {
  readonly #deps: OwnDrainDeps

  constructor(deps: OwnDrainDeps) {
    this.#deps = deps
  }

  /** Keeps the listeners without accepting, to serve again if the next version fails. Open connections are served until they have moved or ended. */
  standBy(): void {
    this.#deps.connections.beginMoving()
    this.#deps.reportLink.open()
  }

  /**
   * Serves the connections that are left, and makes the last changes of their clients, until all connections have moved or ended (option `drain`): then
   * the state machine gets the event `drained`, and the process may end. The listeners are closed already.
   */
  leave(): void {
    const { connections, machine, reportLink, shutdown, writes } = this.#deps
    const hosting = this.#deps.hosting()
    const finishWrites = writes.leave()
    shutdown.leave(hosting.released)
    // If this process leaves by itself, connections can move only to a standby or joiner that takes over, or to another worker.
    const takes = shutdown.isRetired || shutdown.yields || hosting.standsBy || hosting.isHandingOver
    const receiver = takes && !shutdown.serviceEnds
    if (receiver || machine.member.link !== 'local') reportLink.open()
    void finishWrites(connections.run(receiver)).then(() => machine.step({ type: 'drained' }))
  }
}
