import type { MemberState } from '../../handoff/member-machine.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { FencedWrites } from '../state/fenced-writes.js'
import type { ConnectionDrain } from './connection-drain.js'
import type { ReportLink } from './report-link.js'

interface OwnDrainDeps {
  readonly machine: Pick<Machine, 'step'> & { readonly member: Pick<MemberState, 'link'> }
  readonly shutdown: Pick<Shutdown, 'isRetired' | 'leave' | 'yields'>
  readonly hosting: () => Pick<Hosting, 'isHandingOver' | 'released' | 'standsBy'>
  readonly writes: Pick<FencedWrites, 'leave'>
  readonly reportLink: Pick<ReportLink, 'open'>
  readonly connections: Pick<ConnectionDrain, 'run'>
}

/** Drains this process, which leaves: its connections, and the last changes of its clients. */
export class OwnDrain {
  readonly #deps: OwnDrainDeps

  constructor(deps: OwnDrainDeps) {
    this.#deps = deps
  }

  /** Waits until all connections have moved or ended; then the state machine gets the event `drained`. */
  start(): void {
    const { connections, machine, reportLink, shutdown, writes } = this.#deps
    const hosting = this.#deps.hosting()
    const finishWrites = writes.leave()
    shutdown.leave(hosting.released)
    // If this process leaves by itself, connections can move only to a standby or joiner that takes over, or to another worker.
    const receiver = shutdown.isRetired || shutdown.yields || hosting.standsBy || hosting.isHandingOver
    if (receiver || machine.member.link !== 'local') reportLink.open()
    void finishWrites(connections.run(receiver)).then(() => machine.step({ type: 'drained' }))
  }
}
