import { LONGEST_MS } from '../duration.js'
import { FdbError } from '../errors.js'
import type { Logger } from '../logger.js'
import type { ReverseProxy } from '../proxy/index.js'

/** After the order to end at once: what was closed is told to the kernel within this time. */
const AT_ONCE_MS = 500

/**
 * A second TERM that comes sooner is the same order: systemd, for one, sends it to the whole unit, and again to what is
 * left when the main process has ended.
 */
const IMPATIENT_MS = 2_000

const HANDLED = ['SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGWINCH', 'SIGTERM', 'SIGINT', 'SIGQUIT'] as const
type Handled = (typeof HANDLED)[number]

/** By a main process that another serves in the place of. */
export const PASSED_ON = HANDLED
/** Whoever stays for others is told this for them. */
const FOR_OTHERS: ReadonlySet<Handled> = new Set(['SIGHUP', 'SIGUSR2', 'SIGWINCH'])

/** What signals make a proxy do. Handled from the first moment: one that comes early must not end the process by default. */
export class ProxySignals {
  readonly #logger: Logger
  readonly #reopen: () => void
  readonly #starting = new AbortController()
  readonly #ending = new AbortController()
  readonly #handler = (signal: Handled) => this.#handle(signal)
  #proxy: ReverseProxy | null = null
  /** When it was told to end. */
  #endingSince: number | null = null

  /** `reopen` opens the files of the logs anew. */
  constructor(logger: Logger, reopen: () => void) {
    this.#logger = logger
    this.#reopen = reopen
    for (const signal of HANDLED) process.on(signal, this.#handler)
  }

  /** Aborted by a signal to end before the proxy serves. */
  get starting(): AbortSignal {
    return this.#starting.signal
  }

  /** Aborted by the first signal to end. */
  get ending(): AbortSignal {
    return this.#ending.signal
  }

  attach(proxy: ReverseProxy): void {
    this.#proxy = proxy
    // It came when it was too late not to serve: then it ends what has begun.
    if (this.#starting.signal.aborted) void proxy.close()
  }

  close(): void {
    for (const signal of HANDLED) process.off(signal, this.#handler)
  }

  #handle(signal: Handled): void {
    const proxy = this.#proxy
    this.#logger.info({ signal }, 'signal')
    if (signal === 'SIGUSR1') {
      this.#reopen()
      return
    }
    if (proxy === null) {
      if (FOR_OTHERS.has(signal)) return
      if (this.#starting.signal.aborted) process.exit(1)
      this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before it served`))
      return
    }
    if (proxy.member.staysForOthers && FOR_OTHERS.has(signal)) return
    switch (signal) {
      case 'SIGHUP':
        void this.#reload(proxy)
        return
      case 'SIGUSR2':
        void this.#upgrade(proxy)
        return
      case 'SIGWINCH':
        proxy.member.pause()
        this.#logger.warn({}, 'accepts no more until HUP: who connects waits')
        return
      case 'SIGQUIT':
        this.#end(proxy, LONGEST_MS, true)
        return
      case 'SIGTERM':
        if (this.#endingSince === null) this.#end(proxy, proxy.config.drain.timeout)
        else if (performance.now() - this.#endingSince >= IMPATIENT_MS) this.#endNow(proxy)
        return
      case 'SIGINT':
        this.#endNow(proxy)
    }
  }

  async #reload(proxy: ReverseProxy): Promise<void> {
    try {
      await proxy.member.reload()
      this.#logger.info({}, 'the configuration was read anew')
    } catch (error) {
      this.#logger.error(
        { err: error },
        'the configuration was not taken over; the one before stays in force',
      )
    }
  }

  async #upgrade(proxy: ReverseProxy): Promise<void> {
    try {
      const { pid, generation } = await proxy.upgrade()
      this.#logger.info({ successor: pid, generation }, 'upgraded')
    } catch (error) {
      this.#logger.error({ err: error }, 'the upgrade failed; this process serves on')
    }
  }

  #end(proxy: ReverseProxy, timeout: number, handBack = false): void {
    if (this.#endingSince !== null) return
    this.#endingSince = performance.now()
    this.#ending.abort()
    proxy.close({ timeout, handBack }).catch(error => this.#logger.error({ err: error }, 'the end failed'))
  }

  #endNow(proxy: ReverseProxy): void {
    this.#end(proxy, 0)
    proxy.cut()
    if (!proxy.member.staysForOthers) setTimeout(() => process.exit(), AT_ONCE_MS).unref()
  }
}
