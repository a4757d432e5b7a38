import { InOrder } from '../../base/in-order.js'
import { wrongOption } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import type { MemberPhase } from '../../handoff/phases.js'
import { askAgain } from '../../operator/ask-again.js'
import { OperatorClient } from '../../operator/client.js'
import { RELOAD } from '../../operator/service-commands.js'
import type { Settings } from '../options/options.js'
import type { Announcer } from './announcer.js'

/** A next version that serves now has read its configuration at most this long ago: it has not read what a later reload has read. */
const STARTING_MS = 300_000

interface ReloadingDeps {
  readonly settings: Pick<Settings, 'control' | 'logger' | 'service' | 'timeout'>
  readonly announcer: Pick<Announcer, 'reload'>
  readonly machine: { readonly phase: MemberPhase }
}

/** The application's hook that reloads its configuration. */
export class Reloading {
  readonly #deps: ReloadingDeps
  readonly #order = new InOrder()
  #hook: (() => unknown) | null = null
  /** When the last reload began that the hook did not refuse. */
  #last: number | null = null
  #passedOn: Promise<void> = Promise.resolve()

  constructor(deps: ReloadingDeps) {
    this.#deps = deps
  }

  /** Resolves when the next version has answered, or could not be asked. */
  get passedOn(): Promise<void> {
    return this.#passedOn
  }

  set(hook: () => unknown): void {
    if (typeof hook !== 'function') throw wrongOption('hook', hook, 'a function')
    if (this.#hook !== null)
      throw new FdbError('ERR_FDB_OPTION', 'onReload() was already called: a member has one reload hook')
    this.#hook = hook
  }

  /**
   * Runs the hook. Concurrent calls run it one after the other. If `gone` aborts before its turn, rejects with the signal's reason. In a process
   * that stands by, the version that serves reloads instead: a service manager may still send its signals here.
   */
  async run(gone?: AbortSignal): Promise<void> {
    const hook = this.#hook
    if (hook !== null && this.#deps.machine.phase === 'standby' && (await this.#reloadNext())) return
    if (hook === null) {
      throw new FdbError(
        'ERR_FDB_COMMAND_UNKNOWN',
        'this service cannot reload, because it has not called onReload(): upgrade it instead',
      )
    }
    await this.#order.run(async () => {
      const before = this.#last
      // Noted first: the next version may serve before the hook has ended.
      this.#last = performance.now()
      try {
        await this.#deps.announcer.reload(hook)
      } catch (error) {
        // The proxy refuses to reload when another version serves already: that one must.
        if (!FdbError.is(error) || error.code !== 'ERR_FDB_FENCED') this.#last = before
        throw error
      }
    }, gone)
  }

  /** Called when the next version serves: it reloads too, because it may have read its configuration before this process did so again. */
  passOn(): void {
    if (this.#last === null || performance.now() - this.#last > STARTING_MS) return
    this.#last = null
    this.#passedOn = this.#passOn()
  }

  async #passOn(): Promise<void> {
    const { logger } = this.#deps.settings
    try {
      if (await this.#reloadNext()) logger.info({}, 'the next version has read its configuration again too')
    } catch (err) {
      logger.warn(
        { err },
        'the next version did not read its configuration again: it may have read the one before the last reload',
      )
    }
  }

  /** Makes the version that serves reload. Resolves with false if that is this process again. */
  async #reloadNext(): Promise<boolean> {
    const { machine, settings } = this.#deps
    const { control, service, timeout } = settings
    if (control === null) return false
    // This process may still accept at the control socket, or the next version may not yet.
    const mayRetry = (error: FdbError) => error.retryable || error.code === 'ERR_FDB_CHANNEL_CLOSED'
    return await askAgain(timeout, mayRetry, async left => {
      if (machine.phase === 'beginning' || machine.phase === 'serving') return false
      using client = await OperatorClient.connect(control, { timeout: left })
      await client.command(RELOAD, '', { service, timeout: left })
      return true
    })
  }
}
