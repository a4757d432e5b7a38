import { type Daemon, openDaemon } from '../daemon/daemon.js'
import type { Orchestrator } from '../daemon/orchestrator.js'
import type { UpgradeOptions } from '../member/member-options.js'
import type { StayOptions } from '../member/stay.js'
import { toldOf } from '../member/upgrades.js'
import { OperatorClient } from '../operator/client.js'
import type { Upgraded, UpgradeOrder, UpgradeProgress } from '../operator/requests.js'
import {
  RELOAD,
  REPLACE_WORKERS,
  ROLLBACK,
  SET_WORKERS,
  STOP,
  stopOrderOf,
  toldReply,
} from '../operator/service-commands.js'
import type { WorkersReport } from '../operator/status-report.js'
import { countOf, settleWorkers, type WorkersOptions, type WorkersSettings } from './options.js'
import { WorkerPool } from './pool.js'

/** In place of all: those that the main process before has started. */
const OLDER = 'older'

/**
 * The main process of N workers: each is a process of its own that joins the same service and serves the same addresses. It starts them,
 * and again when they end; it holds their listeners, so that connections that one has not accepted when it dies are accepted by the next.
 * It serves no client itself.
 */
export class Workers implements AsyncDisposable {
  readonly #settings: WorkersSettings
  readonly #pool: WorkerPool
  #daemon: Daemon | null = null
  #closing = false
  #onReload: (() => Promise<number | 'auto'>) | null = null
  /** Workers of the main process before are replaced: once, by the order of that one or without it. */
  #renewal: Promise<void> | null = null
  /** One order on all of them at a time. */
  #orders: Promise<unknown> = Promise.resolve()

  /** @internal See {@link startWorkers}. */
  static async start(options: WorkersOptions): Promise<Workers> {
    const workers = new Workers(settleWorkers(options))
    await workers.#open(options)
    return workers
  }

  private constructor(settings: WorkersSettings) {
    this.#settings = settings
    this.#pool = new WorkerPool(settings)
  }

  get control(): string {
    return this.#settings.control
  }

  /** How many are to serve. */
  get count(): number {
    return this.#pool.count
  }

  get report(): WorkersReport {
    return {
      count: this.#pool.count,
      replace: this.#settings.replace,
      all: this.#pool.slots.map(({ report }) => report),
    }
  }

  /** Resolves when it is closed, or another main process has taken over. */
  get closed(): Promise<void> {
    return this.#daemon!.closed
  }

  /** As `stay` of a member. */
  async stay(options: StayOptions = {}): Promise<number> {
    return await this.#daemon!.stay(options)
  }

  /** @internal */
  get staysForOthers(): boolean {
    return this.#daemon!.staysForOthers
  }

  /**
   * Starts the next main process (same command, unless `argv` says otherwise), which takes over when it calls {@link startWorkers}; that one
   * replaces the workers: the first, then the others as `replace` says, each by a process that serves before the old one stops. Resolves
   * when all are new. Rejects when the next main process has not come (this one goes on), or a worker has not: those that are old serve on,
   * and are named.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    const upgraded = await this.#daemon!.upgrade(options)
    toldOf(options.progress, this.#settings.logger)({ phase: 'workers', at: Date.now(), pid: upgraded.pid })
    using client = await OperatorClient.connect(this.control)
    const timeoutMs = this.#settings.timeout * (this.#pool.count + 1)
    await client.command(REPLACE_WORKERS, OLDER, { timeout: timeoutMs })
    return upgraded
  }

  /** Replaces the workers, as {@link upgrade} does, and not this process. */
  async restart(): Promise<void> {
    await this.#inTurn(() => this.#pool.replaceAll(this.#pool.wanted))
  }

  /** From now on so many. Resolves when those that are lacking serve; those that are too many end with their connections. */
  async set(workers: number | 'auto'): Promise<void> {
    const count = countOf(workers)
    await this.#inTurn(() => this.#pool.resize(count))
  }

  /** Has every worker read its configuration anew, the first before the others. Rejects with what that throws; the others are told nevertheless. */
  async reload(): Promise<void> {
    await this.#inTurn(() => this.#pool.reloadAll())
    if (this.#onReload !== null) await this.set(await this.#onReload())
  }

  /** How many are to serve behind each {@link reload}. */
  onReload(count: () => Promise<number | 'auto'>): void {
    this.#onReload = count
  }

  /** Passes a signal on to every worker that serves. */
  signal(signal: NodeJS.Signals): void {
    for (const { owner } of this.#pool.slots) {
      try {
        if (owner !== null) process.kill(owner.pid, signal)
      } catch {
        // It has just ended.
      }
    }
  }

  /**
   * All workers leave as `Member.close()` does, within `timeout` milliseconds (default: as they are configured); then this process does. One
   * that does not hear of it is killed: 5 s after `timeout`, by default after `stopTimeout`. Idempotent; a shorter time counts.
   */
  async close({ timeout }: { timeout?: number } = {}): Promise<void> {
    const daemon = this.#daemon
    if (daemon === null) return
    if (!this.#closing) {
      this.#closing = true
      await this.#pool.endAll(timeout ?? null)
      await daemon.close()
    } else if (timeout !== undefined) this.#pool.hasten(timeout)
    await daemon.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #open({ systemd, pidFile, mainProcess, signal }: WorkersOptions): Promise<void> {
    const { control, logger } = this.#settings
    this.#daemon = await openDaemon(
      {
        control,
        logger,
        takeOver: true,
        ...(systemd !== undefined && { systemd }),
        ...(pidFile !== undefined && { pidFile }),
        ...(mainProcess !== undefined && { mainProcess }),
      },
      services => {
        this.#pool.oversee(services)
        return this.#orchestrator
      },
    )
    const aborted = () => void this.close({ timeout: 0 })
    signal?.addEventListener('abort', aborted, { once: true })
    try {
      // It came while a main process before this one was taken over from, say.
      signal?.throwIfAborted()
      await this.#inTurn(() => this.#pool.startAll())
      signal?.throwIfAborted()
    } catch (error) {
      await this.close({ timeout: 0 })
      throw error
    }
    // A main process that has taken over from a living one is its upgrade, whether that one has started it or not.
    if (this.#daemon.generation > 1) this.#renew().catch(() => {})
  }

  #renew(): Promise<void> {
    const { logger } = this.#settings
    this.#renewal ??= this.#inTurn(() => this.#pool.replaceAll(this.#pool.older)).then(
      () => logger.info({ workers: this.report.all }, 'the workers of the main process before are replaced'),
      error => {
        if (!this.#closing)
          logger.error({ err: error }, 'the workers of the main process before were not replaced')
        throw error
      },
    )
    return this.#renewal
  }

  get #orchestrator(): Orchestrator {
    return {
      service: this.#settings.service,
      status: () => ({ workers: this.report }),
      upgrade: (order, progress, cancel) => this.#upgrade(order, progress, cancel),
      command: (name, body) => this.#command(name, body),
      listener: key => this.#pool.listener(key),
      receiver: service => this.#pool.receiver(service),
      servicesChanged: () => this.#pool.update(),
    }
  }

  async #upgrade(
    { argv, timeoutMs }: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    signal: AbortSignal,
  ): Promise<Upgraded> {
    return await this.upgrade({ argv, progress, signal, ...(timeoutMs > 0 && { timeout: timeoutMs }) })
  }

  #command(name: string, body: Buffer): Promise<Uint8Array> | null {
    const told = async (work: Promise<void>) => {
      await work
      return Buffer.from(toldReply({ pid: process.pid, generation: this.#daemon?.generation ?? 0 }))
    }
    switch (name) {
      case REPLACE_WORKERS:
        return told(body.toString() === OLDER ? this.#renew() : this.restart())
      case SET_WORKERS: {
        const text = body.toString()
        return told(this.set(/^\d+$/.test(text) ? Number(text) : (text as 'auto')))
      }
      case RELOAD:
        return told(this.reload())
      case ROLLBACK:
        return this.#inTurn(() => this.#pool.rollback())
      case STOP: {
        const { timeoutMs } = stopOrderOf(body)
        // The answer leaves first.
        setImmediate(() => void this.close(timeoutMs === null ? {} : { timeout: timeoutMs }))
        return told(Promise.resolve())
      }
      default:
        return null
    }
  }

  /** After what was ordered before. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#orders.then(work)
    this.#orders = done.catch(() => {})
    return done
  }
}

/**
 * Starts so many workers, and keeps them. Resolves when all of them serve. Rejects, and leaves nothing behind, with ERR_FDB_OPTION,
 * ERR_FDB_CONTROL_TAKEN, and with why a worker was not brought to serve. Where a main process serves the same service this one takes over
 * from it, and then replaces its workers: one that does not come to serve is logged, and stands in `report`; those that are old serve on.
 */
export function startWorkers(options: WorkersOptions): Promise<Workers> {
  return Workers.start(options)
}
