import { LONGEST_MS } from '../base/duration.js'
import type { Logger } from '../base/logger.js'
import type { ReverseProxy } from '../proxy/index.js'
import { runLogged, Signals } from './signals.js'

/** Delay between cutting all connections and exit, in which the sockets are closed. */
const AT_ONCE_MS = 500

interface ProxySignals {
  /** Aborted if TERM, INT or QUIT arrives before the proxy serves. */
  readonly starting: AbortSignal
  /** Aborted by the first TERM, INT or QUIT after the proxy serves. */
  readonly ending: AbortSignal
  attach(proxy: ReverseProxy): void
  close(): void
}

export function proxySignals(logger: Logger, reopen: () => void): ProxySignals {
  const ending = new AbortController()
  /** Actions of HUP and WINCH signals that arrived before the proxy served, the latest last. */
  const early = new Set<(proxy: ReverseProxy) => void>()

  /**
   * Returns the handler of a signal, which does nothing in a process that was replaced and stays only for others. With `held` a signal that arrives
   * before the proxy serves is handled when it does.
   */
  const ifServing = (act: (proxy: ReverseProxy) => void, { held }: { held: boolean }) => {
    const unlessReplaced = (proxy: ReverseProxy) => {
      if (!proxy.member.staysForOthers) act(proxy)
    }
    return (proxy: ReverseProxy | null) => {
      if (proxy !== null) unlessReplaced(proxy)
      else if (held) {
        early.delete(unlessReplaced)
        early.add(unlessReplaced)
      }
    }
  }
  const end = (proxy: ReverseProxy | null, signal: 'SIGTERM' | 'SIGINT' | 'SIGQUIT') => {
    if (proxy === null) {
      if (signals.starting.aborted) process.exit(1)
      signals.abortStart(signal, 'it served')
      return
    }
    const order = signals.endOrder()
    if (order === 'first') {
      ending.abort()
      const timeout = { SIGTERM: proxy.config.drain.timeout, SIGINT: 0, SIGQUIT: LONGEST_MS }[signal]
      void runLogged(logger, () => proxy.close({ timeout, handBack: signal === 'SIGQUIT' }), {
        failed: 'closing the proxy failed',
      })
    }
    if (signal !== 'SIGINT' && !(signal === 'SIGTERM' && order === 'again')) return
    proxy.cut()
    if (!proxy.member.staysForOthers) setTimeout(() => process.exit(), AT_ONCE_MS).unref()
  }
  const signals = new Signals<ReverseProxy>(logger, {
    SIGUSR1: proxy => {
      reopen()
      // The files of older versions were rotated too.
      proxy?.member.signalOlder('SIGUSR1')
    },
    // USR2 before the proxy serves is dropped: there is nothing to replace yet.
    SIGUSR2: ifServing(proxy => void upgrade(proxy, logger), { held: false }),
    SIGHUP: ifServing(proxy => void reload(proxy, logger), { held: true }),
    SIGWINCH: ifServing(
      proxy => {
        proxy.member.pause()
        logger.warn({}, 'the proxy stops accepting until HUP: clients that connect wait')
      },
      { held: true },
    ),
    SIGTERM: end,
    SIGINT: end,
    SIGQUIT: end,
  })
  return {
    starting: signals.starting,
    ending: ending.signal,
    attach: proxy => {
      signals.attach(proxy)
      // Repeats early reloads, unless the proxy was told to end: the file may have changed since this process read it.
      if (!signals.starting.aborted) for (const act of early) act(proxy)
      early.clear()
    },
    close: () => signals.close(),
  }
}

function reload({ member }: ReverseProxy, logger: Logger): Promise<void> {
  return runLogged(logger, () => member.reload(), {
    done: () => logger.info({}, 'the configuration was read again'),
    failed: 'the configuration was not applied; the previous one stays in force',
  })
}

function upgrade(proxy: ReverseProxy, logger: Logger): Promise<void> {
  return runLogged(logger, () => proxy.upgrade(), {
    done: ({ pid, generation }) => logger.info({ successor: pid, generation }, 'upgraded'),
    failed: 'the upgrade failed; this process serves on',
  })
}
