import { FdbError } from '../errors.js'
import type { Logger } from '../holder/options.js'
import type { ProxyConfig, ReverseProxy } from '../proxy/index.js'

/** After the order to end at once: what was closed is told to the kernel within this time. */
const AT_ONCE_MS = 500
/** As long as a timer can wait. */
const NO_LIMIT_MS = 2 ** 31 - 1

const HANDLED = ['SIGUSR2', 'SIGHUP', 'SIGTERM', 'SIGINT', 'SIGQUIT'] as const
type Handled = (typeof HANDLED)[number]

/** What signals make a proxy do. Handled from the first moment: one that comes early must not end the process by default. */
export class ProxySignals {
  readonly #logger: Logger
  readonly #read: () => Promise<ProxyConfig>
  readonly #starting = new AbortController()
  readonly #handler = (signal: Handled) => this.#handle(signal)
  #proxy: ReverseProxy | null = null
  #ending = false

  /** `read` reads the configuration anew. */
  constructor(logger: Logger, read: () => Promise<ProxyConfig>) {
    this.#logger = logger
    this.#read = read
    for (const signal of HANDLED) process.on(signal, this.#handler)
  }

  /** Aborted by a signal to end before the proxy serves. */
  get starting(): AbortSignal {
    return this.#starting.signal
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
    if (proxy === null) {
      if (signal === 'SIGHUP' || signal === 'SIGUSR2') return
      if (this.#starting.signal.aborted) process.exit(1)
      this.#starting.abort(new FdbError('ERR_FDB_ABORTED', `ended by ${signal} before it served`))
      return
    }
    switch (signal) {
      case 'SIGHUP':
        void this.#reload(proxy)
        return
      case 'SIGUSR2':
        void this.#upgrade(proxy)
        return
      case 'SIGQUIT':
        this.#end(proxy, NO_LIMIT_MS)
        return
      case 'SIGTERM':
        if (this.#ending) this.#endNow(proxy)
        else this.#end(proxy, proxy.config.drain.timeout)
        return
      case 'SIGINT':
        this.#endNow(proxy)
    }
  }

  async #reload(proxy: ReverseProxy): Promise<void> {
    try {
      await proxy.reload(await this.#read())
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

  #end(proxy: ReverseProxy, timeout: number): void {
    if (this.#ending) return
    this.#ending = true
    proxy.close({ timeout }).catch(error => this.#logger.error({ err: error }, 'the end failed'))
  }

  #endNow(proxy: ReverseProxy): void {
    this.#end(proxy, 0)
    proxy.cut()
    setTimeout(() => process.exit(), AT_ONCE_MS).unref()
  }
}
