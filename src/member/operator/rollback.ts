import { FdbError } from '../../errors.js'
import { accepts } from '../../handoff/phases.js'
import type { CommandContext } from '../../operator/requests.js'
import { noStandbyError, rollbackBy } from '../../operator/service-commands.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine, Origin } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'
import type { Settings } from '../options/options.js'

interface RollbackDeps {
  readonly origin: Pick<Origin, 'generation'>
  readonly machine: Pick<Machine, 'changes' | 'phase'>
  readonly shutdown: Shutdown
  readonly timing: Pick<TakeoverTiming, 'sinceMs'>
  readonly heartbeat: Pick<Heartbeat, 'beat'>
  readonly hosting: Pick<Hosting, 'hearStandby' | 'standsBy' | 'unfitStandby'>
}

/** The reply to `rollback` waits at most this long for the process to reach `leaving`; the operator waits longer. */
const LEAVING_MS = 40_000

/** Handles the order of an operator to return to the previous version. */
export class Rollback {
  readonly #deps: RollbackDeps

  constructor(deps: RollbackDeps) {
    this.#deps = deps
  }

  /**
   * Resolves when this process leaves; `leave` makes it leave. Rejects with ERR_FDB_NO_STANDBY, with ERR_FDB_DEADLINE if the standby does not
   * take over, or with the signal's reason if the operator has gone.
   */
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
    const askedAt = performance.now()
    await machine.changes.until(() => leaves() || servesOn(), LEAVING_MS)
    if (leaves()) return
    if (servesOn() && !hosting.standsBy) throw this.#noStandby()
    throw this.#late(servesOn(), Math.round(performance.now() - askedAt))
  }

  #late(servesOn: boolean, ms: number): FdbError {
    const why = servesOn
      ? `the process that stands by has not taken over within ${ms} ms, so process ${process.pid} serves on: the other one is stopped or stuck; continue it, and order the rollback again`
      : `process ${process.pid} has not left within ${ms} ms: its work has not ended yet; status shows which process serves`
    return new FdbError('ERR_FDB_DEADLINE', why, { retryable: true })
  }

  #noStandby(): FdbError {
    const { hosting, origin, timing } = this.#deps
    const overMs = timing.sinceMs('offered') === null ? null : timing.sinceMs('released')
    const here = `process ${process.pid} (generation ${origin.generation})`
    return noStandbyError(here, hosting.unfitStandby, overMs)
  }
}

interface TakenOverDeps {
  readonly heartbeat: Pick<Heartbeat, 'beat'>
  readonly machine: Pick<Machine, 'changes' | 'phase'>
  readonly settings: Pick<Settings, 'times'>
  readonly shutdown: Shutdown
}

/**
 * Asks the holder to let the standby take over, and waits until this process leaves, the standby can serve no more (`lacksStandby`), or an order to
 * end replaces the rollback. This process must not leave by itself: the holder may just have released it, and then no process would serve.
 */
export async function untilTakenOver(deps: TakenOverDeps, lacksStandby: () => boolean): Promise<void> {
  const { heartbeat, machine, settings, shutdown } = deps
  const over = () => shutdown.over || !shutdown.rollsBack || !accepts(machine.phase) || lacksStandby()
  shutdown.handsBack = true
  heartbeat.beat()
  // A holder of a release that does not know the order lets the standby take over when the health has been bad for so long.
  await machine.changes.until(over, 2 * (settings.times.silence + settings.times.heartbeat))
  shutdown.handsBack = false
  heartbeat.beat()
}
