import type { FdbError } from '../../errors.js'
import type { CommandContext } from '../../operator/requests.js'
import { noStandbyError, rollbackBy } from '../../operator/service-commands.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine, Origin } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'

interface RollbackDeps {
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Pick<Machine, 'changes' | 'phase'>
  readonly shutdown: Shutdown
  readonly timing: Pick<TakeoverTiming, 'sinceMs'>
  readonly heartbeat: Pick<Heartbeat, 'beat'>
  readonly hosting: Pick<Hosting, 'hearStandby' | 'standsBy' | 'unfitStandby'>
}

/** The reply to `rollback` waits at most this long for the process to reach `leaving`. */
const LEAVING_MS = 10_000

/** Handles the order of an operator to return to the previous version. */
export class Rollback {
  readonly #deps: RollbackDeps

  constructor(deps: RollbackDeps) {
    this.#deps = deps
  }

  /** Resolves when this process leaves; `leave` makes it leave. Rejects with ERR_FDB_NO_STANDBY, or with the signal's reason if the operator has gone. */
  async run({ by, signal }: CommandContext, leave: () => Promise<void>): Promise<void> {
    const { heartbeat, hosting, machine, shutdown } = this.#deps
    await hosting.hearStandby?.()
    signal.throwIfAborted()
    if (!hosting.standsBy) throw this.#noStandby()
    shutdown.requestedBy = rollbackBy(by)
    heartbeat.beat()
    void leave()
    const leaves = () => shutdown.over || machine.phase === 'leaving' || machine.phase === 'gone'
    const servesOn = () => !leaves() && !shutdown.closing
    await machine.changes.until(() => leaves() || servesOn(), LEAVING_MS)
    if (servesOn()) throw this.#noStandby()
  }

  #noStandby(): FdbError {
    const { hosting, origin, timing } = this.#deps
    const overMs = timing.sinceMs('offered') === null ? null : timing.sinceMs('released')
    const here = `process ${process.pid} (generation ${origin.generation})`
    return noStandbyError(here, hosting.unfitStandby, overMs)
  }
}
