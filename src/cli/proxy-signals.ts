import { LONGEST_MS } from '../base/duration.js'
import type { Logger } from '../base/logger.js'
import type { ReverseProxy } from '../proxy/index.js'
import { obey, Signals } from './signals.js'

/** After the order to end at once: what was closed is told to the kernel within this time. */
const AT_ONCE_MS = 500

export interface ProxySignals {
  /** Aborted by a signal to end before the proxy serves. */
  readonly starting: AbortSignal
  /** Aborted by the first signal to end. */
  readonly ending: AbortSignal
  attach(proxy: ReverseProxy): void
  close(): void
}

/** `reopen` opens the files of the logs anew. */
export function proxySignals(logger: Logger, reopen: () => void): ProxySignals {
  const ending = new AbortController()
  /** HUP and WINCH that came before the proxy served, the last one last. */
  const early = new Set<(proxy: ReverseProxy) => void>()

  /** Where a process stays for others, the process that serves is told. */
  const ofServing = (act: (proxy: ReverseProxy) => void, { held }: { held: boolean }) => {
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
      signals.abandon(signal, 'it served')
      return
    }
    const order = signals.end()
    if (order === 'first') {
      ending.abort()
      const timeout = { SIGTERM: proxy.config.drain.timeout, SIGINT: 0, SIGQUIT: LONGEST_MS }[signal]
      void obey(logger, () => proxy.close({ timeout, handBack: signal === 'SIGQUIT' }), {
        failed: 'the end failed',
      })
    }
    if (signal !== 'SIGINT' && !(signal === 'SIGTERM' && order === 'again')) return
    proxy.cut()
    if (!proxy.member.staysForOthers) setTimeout(() => process.exit(), AT_ONCE_MS).unref()
  }
  const signals = new Signals<ReverseProxy>(logger, {
    SIGUSR1: reopen,
    // An upgrade is for the process that serves: before, USR2 is dropped.
    SIGUSR2: ofServing(proxy => void upgrade(proxy, logger), { held: false }),
    SIGHUP: ofServing(proxy => void reload(proxy, logger), { held: true }),
    SIGWINCH: ofServing(
      proxy => {
        proxy.member.pause()
        logger.warn({}, 'accepts no more until HUP: who connects waits')
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
      // It came when it was too late not to serve: then it ends what has begun.
      if (signals.starting.aborted) void proxy.close()
      // The file may have changed since this process read it, and status says `serving` a little before this.
      else for (const act of early) act(proxy)
      early.clear()
    },
    close: () => signals.close(),
  }
}

function reload({ member }: ReverseProxy, logger: Logger): Promise<void> {
  return obey(logger, () => member.reload(), {
    done: () => logger.info({}, 'the configuration was read anew'),
    failed: 'the configuration was not taken over; the one before stays in force',
  })
}

function upgrade(proxy: ReverseProxy, logger: Logger): Promise<void> {
  return obey(logger, () => proxy.upgrade(), {
    done: ({ pid, generation }) => logger.info({ successor: pid, generation }, 'upgraded'),
    failed: 'the upgrade failed; this process serves on',
  })
}
