import { durationText } from './duration.js'

/** A time that programs and operators can set. */
interface DefaultTime {
  readonly ms: number
  /** The line in `docs/times.md`. */
  readonly about: string
  /** The option of `join()`. */
  readonly join?: string
  /** The option of `serveDaemon()`, for members that do not give theirs. */
  readonly daemon?: string
  /** The variable of `fd-broker/auto`. */
  readonly auto?: string
  /** The option of `fd-broker run`. */
  readonly run?: string
  /** The option of `fd-broker workers start`. */
  readonly workers?: string
  /** The key in the proxy's configuration. */
  readonly proxy?: string
}

/** Every time of a handoff, of a drain and of a supervised process that has a default. No other file has a copy: `docs/times.md` is generated from this table. */
export const DEFAULT_TIMES = {
  joining: {
    ms: 10_000,
    about: 'limit for joining, and for each answer of the previous version',
    join: 'timeout',
  },
  ready: {
    ms: 60_000,
    about: 'limit from the start of a version until it is ready',
    join: 'upgrade.ready',
    daemon: 'upgrade.ready',
    auto: 'FD_BROKER_READY_TIMEOUT',
    run: '--ready-timeout',
    workers: '--timeout',
  },
  proxyReady: { ms: 30_000, about: 'the same for the proxy', proxy: 'upgrade.ready' },
  proxyUpgrade: { ms: 30_000, about: 'limit for a whole upgrade of the proxy', proxy: 'upgrade.timeout' },
  quiesce: {
    ms: 10_000,
    about: 'limit for the end of `whileServing()` work in the previous version',
    join: 'upgrade.quiesce',
    daemon: 'upgrade.quiesce',
  },
  freeze: {
    ms: 1_000,
    about: 'limit for the previous version to stop writing',
    join: 'upgrade.freeze',
    daemon: 'upgrade.freeze',
    proxy: 'upgrade.freeze',
  },
  prepare: {
    ms: 10_000,
    about: 'limit for the next version to read the last changes',
    join: 'upgrade.prepare',
    daemon: 'upgrade.prepare',
    proxy: 'upgrade.prepare',
  },
  commit: {
    ms: 10_000,
    about: 'limit from the commit until the next version serves',
    join: 'upgrade.commit',
    daemon: 'upgrade.commit',
    proxy: 'upgrade.commit',
  },
  /** With workers, each worker has its own, by its `join()` or the proxy's configuration. The upgrade of a daemon itself has none: `serveDaemon()` sets it to 0. */
  probation: {
    ms: 10_000,
    about: 'how long the previous version can take over again',
    join: 'upgrade.probation',
    daemon: 'upgrade.probation',
    auto: 'FD_BROKER_PROBATION',
    run: '--probation',
    proxy: 'upgrade.probation',
  },
  heartbeat: {
    ms: 250,
    about: "interval of the next version's heartbeats",
    join: 'upgrade.heartbeat',
    daemon: 'upgrade.heartbeat',
    proxy: 'upgrade.heartbeat',
  },
  silence: {
    ms: 3_000,
    about: 'silence or bad health after which the previous version takes over again',
    join: 'upgrade.silence',
    daemon: 'upgrade.silence',
    proxy: 'upgrade.silence',
  },
  drain: {
    ms: 30_000,
    about: 'connections that are still open after this time are closed',
    join: 'drain.timeout',
    auto: 'FD_BROKER_DRAIN',
    proxy: 'drain.timeout',
  },
  drainTls: {
    ms: 3_600_000,
    about: 'the same for TLS connections, few of which move',
    join: 'drain.tlsTimeout',
    proxy: 'drain.tlsTimeout',
  },
  firstWave: {
    ms: 250,
    about: 'a few connections move first, the others after this time',
    join: 'drain.firstWave',
    proxy: 'drain.firstWave',
  },
  retired: {
    ms: 2_000,
    about: 'a replaced process that timers keep alive is ended after this time',
    join: 'exitWhenRetired',
    auto: 'FD_BROKER_EXIT',
  },
  quiet: {
    ms: 3_000,
    about: 'a program that listens on other addresses only for this long is no next version',
    auto: 'FD_BROKER_QUIET',
  },
  stop: {
    ms: 30_000,
    about: 'a program that lives this long after the stop signal is killed',
    run: '--stop-timeout',
    workers: '--stop-timeout',
    proxy: 'workers.stopTimeout',
  },
  hook: {
    ms: 10_000,
    about: 'limit of a hook, which is then ended',
    join: 'hooks.timeout',
    proxy: 'hooks.timeout',
  },
  healthTimeout: { ms: 5_000, about: 'limit of one check', run: '--health-timeout' },
  restartDelay: {
    ms: 100,
    about: 'delay before a program is started again; doubled each time, up to 30 s',
    run: '--restart-delay',
  },
  workerRestartDelay: { ms: 500, about: 'the same for a worker: `restartDelay` of `startWorkers()`' },
  hung: {
    ms: 10_000,
    about: 'a worker that is silent this long is replaced',
    workers: '--hung-timeout',
    proxy: 'workers.hungTimeout',
  },
} as const satisfies Readonly<Record<string, DefaultTime>>

/** Formats the default of a time: `10s`. */
export function defaultText(time: keyof typeof DEFAULT_TIMES): string {
  return durationText(DEFAULT_TIMES[time].ms)
}
