import type { Logger } from '../base/logger.js'
import { LONGEST_MS } from '../base/time.js'
import { startWorkers, type Workers, type WorkersOptions } from '../index.js'
import { ORDERS, type Order, SignalOrders, tellTurn } from './signal-orders.js'

export interface RunParts {
  readonly logger: Logger
  /** Opens the files of the logs anew. */
  readonly reopen: () => void
  /** Has handled signals so far. */
  readonly before?: { readonly starting: AbortSignal; close(): void }
  /** How many are to serve, when the configuration was read anew. */
  readonly count?: () => Promise<number | 'auto'>
}

/** Is the main process of workers until it ends: signals are orders. */
export async function runWorkers(
  options: WorkersOptions,
  { logger, reopen, before, count }: RunParts,
): Promise<void> {
  const signals = new MainSignals(logger, reopen)
  before?.close()
  try {
    const { starting } = signals
    const signal = before === undefined ? starting : AbortSignal.any([starting, before.starting])
    const workers = await startWorkers({
      ...options,
      logger,
      signal,
      systemd: 'auto',
      mainProcess: 'stays',
    })
    if (count !== undefined) workers.onReload(count)
    logger.info({ workers: workers.report.all }, 'the workers serve')
    signals.attach(workers)
    tellTurn('served')
    const stayed = workers.stay({ signals: ORDERS })
    await workers.closed
    process.exitCode = await stayed
  } finally {
    signals.close()
  }
}

/** What signals make a main process do. */
class MainSignals {
  readonly #logger: Logger
  readonly #reopen: () => void
  readonly #orders = new SignalOrders(ORDERS, signal => this.#handle(signal))
  #workers: Workers | null = null

  constructor(logger: Logger, reopen: () => void) {
    this.#logger = logger
    this.#reopen = reopen
  }

  /** Aborted by a signal to end before the workers serve. */
  get starting(): AbortSignal {
    return this.#orders.starting
  }

  attach(workers: Workers): void {
    this.#workers = workers
  }

  close(): void {
    this.#orders.close()
  }

  #handle(signal: Order): void {
    const workers = this.#workers
    this.#logger.info({ signal }, 'signal')
    switch (signal) {
      case 'SIGUSR1':
        this.#reopen()
        workers?.signal(signal)
        return
      case 'SIGWINCH':
        workers?.signal(signal)
        return
      case 'SIGHUP':
        if (workers !== null && !workers.staysForOthers) void this.#do('reload', () => workers.reload())
        return
      case 'SIGUSR2':
        if (workers !== null && !workers.staysForOthers) void this.#do('upgrade', () => workers.upgrade())
        return
      default:
        if (workers === null) this.#orders.abandon(signal, 'the workers served')
        else this.#end(workers, signal)
    }
  }

  #end(workers: Workers, signal: Order): void {
    const order = this.#orders.end()
    const atOnce = signal === 'SIGINT' || order === 'again'
    if (atOnce) workers.signal('SIGINT')
    if (order !== 'first') {
      if (atOnce) workers.close({ timeout: 0 }).catch(() => {})
      return
    }
    const timeout = signal === 'SIGQUIT' ? { timeout: LONGEST_MS } : signal === 'SIGINT' ? { timeout: 0 } : {}
    void this.#do('end', () => workers.close(timeout))
  }

  async #do(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
      this.#logger.info({}, `${what}: done`)
    } catch (error) {
      this.#logger.error({ err: error }, `${what}: failed; the workers serve on`)
    }
  }
}
