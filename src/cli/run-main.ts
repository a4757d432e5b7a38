import { type Logger, SILENT } from '../base/logger.js'
import { reportServerStage } from '../base/server-stage.js'
import { startThreadPool } from '../base/thread-pool.js'
import { releaseSignals } from '../kernel/index.js'
import type { ExecState } from '../run/exec-state.js'
import type { SupervisorEnd } from '../run/failures.js'
import type { Predecessor } from '../run/predecessor.js'
import { Supervisor, type SupervisorDeps } from '../run/supervisor.js'
import { Signals, UPGRADE_SIGNALS } from './signals.js'

interface RunDeps extends Omit<SupervisorDeps, 'predecessor'> {
  /** The state of the previous image of this process; null if there is none. */
  readonly state: ExecState | null
  /** Called when this process handles signals: takes listeners over before the first version starts. The result is disposed of at the end. */
  readonly takeOver?: () => Promise<Predecessor | null>
}

/** Runs the supervisor of a program until it ends, controlled by signals. */
export async function runSupervisor({ state, takeOver, ...deps }: RunDeps): Promise<SupervisorEnd> {
  startThreadPool()
  const signals = runSignals(deps.logger, deps.settings.upgradeSignal)
  let predecessor: Predecessor | null = null
  try {
    predecessor = (await takeOver?.()) ?? null
    const parts = { ...deps, predecessor }
    const running = await (state === null ? Supervisor.start(parts) : Supervisor.resume(parts, state))
    signals.attach(running)
    // The previous image blocked signals before it executed this one.
    if (state !== null) releaseSignals()
    reportServerStage('served')
    return await running.ended
  } finally {
    predecessor?.[Symbol.dispose]()
    signals.close()
  }
}

/** Handles the signals of a supervisor. As PID 1 the process receives only signals that have a handler. */
function runSignals(
  logger: Logger,
  upgradeSignal: NodeJS.Signals,
): Pick<Signals<Supervisor>, 'attach' | 'close'> {
  const early: NodeJS.Signals[] = []
  const end = (supervisor: Supervisor | null, signal: NodeJS.Signals) => {
    // The signal is kept until the supervisor runs: an order to end must not be lost.
    if (supervisor === null) {
      early.push(signal)
      return
    }
    const order = signals.endOrder()
    if (order === 'first') {
      logger.info({ signal }, 'the program is ended')
      // For TERM the program gets the configured stop signal; for INT and QUIT it gets the same signal.
      supervisor.stop(signal === 'SIGTERM' ? {} : { signal })
    } else if (order === 'again') supervisor.stop({ now: true })
  }
  const upgradeOrForward = (supervisor: Supervisor | null, signal: NodeJS.Signals) => {
    if (signal !== upgradeSignal) supervisor?.forward(signal)
    // The supervisor logs the result.
    else supervisor?.upgrade().catch(() => {})
  }
  const signals = new Signals<Supervisor>(SILENT, {
    ...Object.fromEntries(UPGRADE_SIGNALS.map(signal => [signal, upgradeOrForward])),
    SIGTERM: end,
    SIGINT: end,
    SIGQUIT: end,
  })
  return {
    attach: supervisor => {
      signals.attach(supervisor)
      for (const signal of early.splice(0)) end(supervisor, signal)
    },
    close: () => signals.close(),
  }
}
