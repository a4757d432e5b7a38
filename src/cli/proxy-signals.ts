import type { Logger } from '../base/logger.js'
import { LONGEST_MS } from '../base/time.js'
import type { ReverseProxy } from '../proxy/index.js'
import { ORDERS, type Order, SignalOrders } from './signal-orders.js'

/** After the order to end at once: what was closed is told to the kernel within this time. */
const AT_ONCE_MS = 500

/** Whoever stays for others is told this for them. */
const FOR_OTHERS: ReadonlySet<Order> = new Set(['SIGHUP', 'SIGUSR2', 'SIGWINCH'])

/** What signals make a proxy do. */
export class ProxySignals {
  readonly #logger: Logger
  readonly #reopen: () => void
  readonly #orders = new SignalOrders(ORDERS, signal => this.#handle(signal))
  readonly #ending = new AbortController()
  #proxy: ReverseProxy | null = null
  /** HUP and WINCH that came before the proxy served, the last one last. */
  readonly #early = new Set<'SIGHUP' | 'SIGWINCH'>()

  /** `reopen` opens the files of the logs anew. */
  constructor(logger: Logger, reopen: () => void) {
    this.#logger = logger
    this.#reopen = reopen
  }

  /** Aborted by a signal to end before the proxy serves. */
  get starting(): AbortSignal {
    return this.#orders.starting
  }

  /** Aborted by the first signal to end. */
  get ending(): AbortSignal {
    return this.#ending.signal
  }

  attach(proxy: ReverseProxy): void {
    this.#proxy = proxy
    // It came when it was too late not to serve: then it ends what has begun.
    if (this.starting.aborted) void proxy.close()
    // The file may have changed since this process read it, and status says `serving` a little before this.
    else for (const signal of this.#early) this.#obey(proxy, signal)
    this.#early.clear()
  }

  close(): void {
    this.#orders.close()
  }

  #handle(signal: Order): void {
    const proxy = this.#proxy
    this.#logger.info({ signal }, 'signal')
    if (signal === 'SIGUSR1') {
      this.#reopen()
      return
    }
    if (proxy === null) {
      if (FOR_OTHERS.has(signal)) {
        this.#hold(signal)
        return
      }
      if (this.starting.aborted) process.exit(1)
      this.#orders.abandon(signal, 'it served')
      return
    }
    this.#obey(proxy, signal)
  }

  /** An upgrade is for the process that serves: USR2 is dropped. */
  #hold(signal: Order): void {
    if (signal !== 'SIGHUP' && signal !== 'SIGWINCH') return
    this.#early.delete(signal)
    this.#early.add(signal)
  }

  #obey(proxy: ReverseProxy, signal: Exclude<Order, 'SIGUSR1'>): void {
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
      default:
        this.#end(proxy, signal)
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

  #end(proxy: ReverseProxy, signal: 'SIGTERM' | 'SIGINT' | 'SIGQUIT'): void {
    const order = this.#orders.end()
    if (order === 'first') {
      this.#ending.abort()
      const timeout = { SIGTERM: proxy.config.drain.timeout, SIGINT: 0, SIGQUIT: LONGEST_MS }[signal]
      proxy
        .close({ timeout, handBack: signal === 'SIGQUIT' })
        .catch(error => this.#logger.error({ err: error }, 'the end failed'))
    }
    if (signal === 'SIGINT' || (signal === 'SIGTERM' && order === 'again')) this.#endNow(proxy)
  }

  #endNow(proxy: ReverseProxy): void {
    proxy.cut()
    if (!proxy.member.staysForOthers) setTimeout(() => process.exit(), AT_ONCE_MS).unref()
  }
}
