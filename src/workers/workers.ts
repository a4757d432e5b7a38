import { InOrder } from '../base/in-order.js'
import { type Daemon, type Orchestrator, openDaemon } from '../daemon/daemon.js'
import { FdbError } from '../errors.js'
import type { Requester } from '../events/requester.js'
import { HookGroup } from '../holder/hook-group.js'
import { finishing } from '../member/lifecycle/shutdown.js'
import type { StayOptions } from '../member/operator/stay.js'
import { guardedProgress } from '../member/operator/upgrades.js'
import type { UpgradeOptions } from '../member/options/member-options.js'
import { OperatorClient } from '../operator/client.js'
import { type CommandContext, refuseWithout, type Upgraded } from '../operator/requests.js'
import {
  processReply,
  RELOAD,
  REPLACE_WORKERS,
  ROLLBACK,
  readStopOrder,
  SET_WORKERS,
  STOP,
} from '../operator/service-commands.js'
import type { Failure, WorkersReport } from '../operator/status-report.js'
import {
  closeTimeoutOf,
  countFunctionOf,
  countOf,
  settleWorkers,
  signalOf,
  type WorkersOptions,
  type WorkersSettings,
} from './options.js'
import { WorkerPool } from './pool.js'

/** Body of REPLACE_WORKERS: replace only the workers that the previous main process started. */
const PREDECESSOR_WORKERS = 'older'

interface Opening {
  /** Aborts the takeover, unless this process has taken over already. */
  readonly joining?: AbortSignal | undefined
  /** Called when this process has taken over, or listens as the first one, before it starts workers. */
  readonly opened?: (workers: Workers) => void
}

/**
 * The main process of several workers: processes that join the same service and serve the same addresses. Starts the workers, and restarts
 * those that end. Holds their listeners, so that a new worker accepts the connections that wait in the queue of a dead one. Serves no
 * clients itself.
 */
export class Workers implements AsyncDisposable {
  readonly #settings: WorkersSettings
  readonly #pool: WorkerPool
  #daemon: Daemon | null = null
  #closing = false
  #onReload: (() => Promise<number | 'auto'>) | null = null
  /** The replacement of the workers that the previous main process started. Runs once, at that process's order or at this one's start. */
  #renewal: Promise<void> | null = null
  readonly #orders = new InOrder()
  readonly #hooks: HookGroup

  /** @internal See {@link startWorkers}. */
  static async start(options: WorkersOptions, opening?: Opening): Promise<Workers> {
    const workers = new Workers(settleWorkers(options))
    await workers.#open(options, opening)
    return workers
  }

  private constructor(settings: WorkersSettings) {
    this.#settings = settings
    this.#hooks = new HookGroup(settings.service)
    this.#pool = new WorkerPool(settings)
  }

  get control(): string {
    return this.#settings.control
  }

  get count(): number {
    return this.#pool.count
  }

  /** @internal Whether this main process does not end, and no other one has taken over. */
  get serves(): boolean {
    return this.#pool.isOwner && !this.#closing
  }

  get report(): WorkersReport {
    return {
      count: this.#pool.count,
      replace: this.#settings.replace,
      all: this.#pool.slots.filter(slot => !this.#pool.hasEnded(slot)).map(({ report }) => report),
    }
  }

  /** Resolves when this main process has closed, or another one has taken over. */
  get closed(): Promise<void> {
    return this.#daemon!.closed
  }

  /** As `Member.stay()`. */
  async stay(options: StayOptions = {}): Promise<number> {
    return await this.#daemon!.stay(options)
  }

  /** @internal */
  get staysForOthers(): boolean {
    return this.#daemon!.staysForOthers
  }

  /**
   * Starts the next main process, with the same command unless `argv` is given. That process takes over when it calls {@link startWorkers},
   * and replaces the workers: the first one, then the others as `replace` says. Each old worker stops only when its successor serves.
   * Resolves when all are replaced. If the next main process fails to start, rejects, and this one continues. If a worker fails to start,
   * rejects with an error that names the old workers, which keep serving.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    return await this.#upgrade(options)
  }

  async #upgrade({ by, ...options }: UpgradeOptions & { by?: Requester | undefined }): Promise<Upgraded> {
    this.#pool.demandRight()
    const failureBefore = this.#daemon!.lastFailure
    const upgraded = await this.#daemon!.upgradeFor(by, options)
    guardedProgress(
      options.progress,
      this.#settings.logger,
    )({ phase: 'workers', at: Date.now(), pid: upgraded.pid })
    using client = await OperatorClient.connect(this.control)
    const timeoutMs = this.#settings.timeout * (this.#pool.count + 1)
    const { generation } = await finishing(client.status({ timeout: timeoutMs }))
    // Not by its pid, which each has in its own PID namespace.
    if (generation === this.#daemon!.generation) throw this.#takenBackFrom(upgraded, failureBefore)
    // The next main process replaces the workers; this one passes on the outcome.
    await finishing(client.command(REPLACE_WORKERS, PREDECESSOR_WORKERS, { timeout: timeoutMs }))
    return upgraded
  }

  /** The error of an upgrade whose main process has begun to serve and failed, before it has heard that it must replace the workers. */
  #takenBackFrom({ pid }: Upgraded, failureBefore: Failure | null): FdbError {
    const { lastFailure } = this.#daemon!
    const own = lastFailure === failureBefore ? null : lastFailure
    const { code = 'ERR_FDB_SUCCESSOR_LOST', message = 'it has ended' } = own ?? {}
    const what = `the next main process ${pid} has failed, and process ${process.pid} serves again: no worker was replaced`
    return new FdbError(code, `${what}: ${message}`)
  }

  /** Replaces the workers as {@link upgrade} does, but not this process. */
  async restart(): Promise<void> {
    await this.#restart()
  }

  /** Changes the number of workers. Resolves when all of them serve. A surplus worker ends with its last connection. */
  async set(workers: number | 'auto'): Promise<void> {
    await this.#set(workers)
  }

  /** Tells the workers one after the other to read their configuration again. Tries all of them, then rejects with the first failure. */
  async reload(): Promise<void> {
    await this.#reload()
  }

  /** Sets the function that returns the number of workers after each {@link reload}. Throws ERR_FDB_OPTION. */
  onReload(count: () => Promise<number | 'auto'>): void {
    this.#onReload = countFunctionOf(count)
  }

  /** Forwards a signal to all processes of the workers. Throws ERR_FDB_OPTION. */
  signal(signal: NodeJS.Signals): void {
    this.#pool.signalAll(signalOf(signal))
  }

  /**
   * Ends all workers as `Member.close()` does, within `timeout` milliseconds (default: the time that each worker configures), then this
   * main process. Workers that live 5 s after `timeout` are killed; without it, those that still serve after `stopTimeout`. Another call
   * can shorten the time. Rejects with ERR_FDB_OPTION.
   */
  async close(options: { timeout?: number | undefined } = {}): Promise<void> {
    const timeout = closeTimeoutOf(options)
    const daemon = this.#daemon
    if (daemon === null) return
    if (!this.#closing) {
      this.#closing = true
      await this.#pool.endAll(timeout, daemon.closed)
      await daemon.close()
    } else if (timeout !== null) this.#pool.shortenDeadline(timeout)
    await daemon.closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // An order whose sender has gone is not begun when its turn comes: `gone`.

  async #restart(gone?: AbortSignal): Promise<void> {
    await this.#orders.run(
      () => this.#hooks.during(() => this.#pool.replaceAll(this.#pool.wantedSlots)),
      gone,
    )
  }

  async #set(workers: number | 'auto', gone?: AbortSignal): Promise<void> {
    const count = countOf(workers)
    await this.#orders.run(() => this.#pool.resize(count), gone)
  }

  async #reload(gone?: AbortSignal): Promise<void> {
    await this.#orders.run(() => this.#pool.reloadAll(), gone)
    if (this.#onReload !== null) await this.#set(await this.#onReload())
  }

  /** Ends the service at an operator's order. A next main process that starts would serve on, so it is refused. */
  async #stop(timeoutMs: number | null): Promise<void> {
    await this.#daemon!.refuseSuccessor()
    // The reply is sent before the control socket closes.
    setImmediate(() => void this.close(timeoutMs === null ? {} : { timeout: timeoutMs }))
  }

  async #open(
    { systemd, pidFile, mainProcess, signal }: WorkersOptions,
    { joining = signal, opened }: Opening = {},
  ): Promise<void> {
    const { control, logger } = this.#settings
    this.#daemon = await openDaemon(
      {
        control,
        logger,
        takeOver: true,
        signal: joining,
        ...(systemd !== undefined && { systemd }),
        ...(pidFile !== undefined && { pidFile }),
        ...(mainProcess !== undefined && { mainProcess }),
      },
      {
        hooks: this.#settings.hooks,
        hookGroup: this.#hooks,
        create: services => {
          this.#pool.setServices(services)
          return this.#orchestrator
        },
      },
    )
    // This process has taken over from another main process: that is an upgrade, even if the other one did not start it.
    const takesOver = this.#daemon.generation > 1
    const aborted = () => void this.close({ timeout: 0 })
    signal?.addEventListener('abort', aborted, { once: true })
    opened?.(this)
    try {
      // The signal may have aborted during the takeover.
      signal?.throwIfAborted()
      await this.#orders.run(() => this.#pool.startAll({ takesOver }))
      signal?.throwIfAborted()
    } catch (error) {
      // The workers belong to the next main process now, or an operator has stopped the service, which ends as that order says.
      if (!this.serves && !signal?.aborted) return
      await this.close({ timeout: 0 })
      signal?.throwIfAborted()
      throw error
    }
    // renew() logs its error.
    if (takesOver) this.#renew().catch(() => {})
  }

  #renew(): Promise<void> {
    const { logger } = this.#settings
    this.#renewal ??= this.#orders
      .run(() => this.#hooks.during(() => this.#pool.renew()))
      .then(
        () =>
          logger.info({ workers: this.report.all }, 'the workers of the previous main process were replaced'),
        error => {
          if (!this.#closing && this.#pool.isOwner)
            logger.error(
              { err: error },
              'the workers of the previous main process were not replaced and keep serving',
            )
          throw error
        },
      )
    return this.#renewal
  }

  get #orchestrator(): Orchestrator {
    return {
      service: this.#settings.service,
      status: () => ({ workers: this.report }),
      upgrade: async ({ argv, timeoutMs, without }, progress, signal, by) => {
        refuseWithout(without, 'is the main process of workers')
        return await this.#upgrade({
          by,
          ...(argv.length > 0 && { argv }),
          progress,
          signal,
          ...(timeoutMs > 0 && { timeout: timeoutMs }),
        })
      },
      command: (name, body, context) => this.#command(name, body, context),
      listener: key => this.#pool.listener(key),
      receiver: service => this.#pool.receiver(service),
      servicesChanged: () => this.#pool.update(),
      replaced: () => this.#pool.lose(),
      isSurplus: service => this.#pool.isSurplus(service),
    }
  }

  #command(name: string, body: Buffer, { signal }: CommandContext): Promise<Uint8Array> | null {
    const reply = async (work: Promise<void>) => {
      await work
      return processReply({ pid: process.pid, generation: this.#daemon?.generation ?? 0 })
    }
    switch (name) {
      case REPLACE_WORKERS:
        return reply(body.toString() === PREDECESSOR_WORKERS ? this.#renew() : this.#restart(signal))
      case SET_WORKERS: {
        const text = body.toString()
        return reply(this.#set(/^\d+$/.test(text) ? Number(text) : (text as 'auto'), signal))
      }
      case RELOAD:
        return reply(this.#reload(signal))
      case ROLLBACK: {
        const rollBack = () => this.#hooks.during(() => this.#pool.rollback())
        // By the end of an upgrade of many workers the first ones could not return any more.
        return this.#pool.isReplacing ? rollBack() : this.#orders.run(rollBack, signal)
      }
      case STOP:
        return reply(this.#stop(readStopOrder(body).timeoutMs))
      default:
        return null
    }
  }
}

/**
 * Starts workers, and keeps them running. Resolves when all serve, or if another main process takes over or an operator stops the service meanwhile. Rejects, with no process left, with ERR_FDB_OPTION,
 * ERR_FDB_CONTROL_TAKEN, and with the reason why a worker failed to start. If a main process already runs the service, this one takes over
 * from it and then replaces its workers. Then, and while a worker of a previous main process lives, the failure of a worker is logged and is in
 * `report`: the old worker keeps serving, or the worker is started again later.
 */
export function startWorkers(options: WorkersOptions): Promise<Workers> {
  return Workers.start(options)
}
