import { LONGEST_MS } from '../base/duration.js'
import type { Logger } from '../base/logger.js'
import type { WorkersOptions } from '../workers/options.js'
import { Workers } from '../workers/workers.js'
import { CONTROL_SIGNALS, type ControlSignal, runLogged, Signals } from './signals.js'

interface RunDeps {
  readonly logger: Logger
  readonly reopen: () => void
  /** Handles signals until the main process does. */
  readonly earlySignals?: { readonly starting: AbortSignal; close(): void }
  /** Reads the number of workers from the configuration, after each reload. */
  readonly count?: () => Promise<number | 'auto'>
}

/** Runs the main process of workers until it ends, controlled by signals. */
export async function runWorkers(
  options: WorkersOptions,
  { logger, reopen, earlySignals, count }: RunDeps,
): Promise<void> {
  const signals = mainSignals(logger, reopen)
  earlySignals?.close()
  try {
    earlySignals?.starting.throwIfAborted()
    const workers = await Workers.start(
      { ...options, logger, systemd: 'auto', mainProcess: 'stays' },
      {
        joining: signals.starting,
        // From now on an order to end is one to the service, also while workers start.
        opened: opened => {
          if (count !== undefined) opened.onReload(count)
          signals.attach(opened)
        },
      },
    )
    if (workers.serves) logger.info({ workers: workers.report.all }, 'the workers serve')
    const stayed = workers.stay({ signals: CONTROL_SIGNALS })
    await workers.closed
    process.exitCode = await stayed
  } finally {
    signals.close()
  }
}

function mainSignals(logger: Logger, reopen: () => void): Signals<Workers> {
  const act = (what: string, work: () => Promise<unknown>) =>
    void runLogged(logger, work, {
      done: () => logger.info({}, `${what}: done`),
      failed: `${what}: failed; the workers serve on`,
    })
  const end = (workers: Workers | null, signal: ControlSignal) => {
    if (workers === null) {
      signals.abortStart(signal, 'it listened')
      return
    }
    const order = signals.endOrder()
    const atOnce = signal === 'SIGINT' || order === 'again'
    if (atOnce) workers.signal('SIGINT')
    if (order !== 'first') {
      if (atOnce) workers.close({ timeout: 0 }).catch(() => {})
      return
    }
    const timeout = signal === 'SIGQUIT' ? { timeout: LONGEST_MS } : signal === 'SIGINT' ? { timeout: 0 } : {}
    act('end', () => workers.close(timeout))
  }
  const signals = new Signals<Workers>(logger, {
    SIGUSR1: workers => {
      reopen()
      workers?.signal('SIGUSR1')
    },
    SIGUSR2: workers => {
      if (workers !== null && !workers.staysForOthers) act('upgrade', () => workers.upgrade())
    },
    SIGHUP: workers => {
      if (workers !== null && !workers.staysForOthers) act('reload', () => workers.reload())
    },
    SIGWINCH: workers => workers?.signal('SIGWINCH'),
    SIGTERM: end,
    SIGINT: end,
    SIGQUIT: end,
  })
  return signals
}
