import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import {
  abortSignal,
  checkOptions,
  milliseconds,
  nameUpTo,
  type OptionChecks,
  oneOf,
  orOff,
  path,
  predicate,
  unchecked,
  wrongOption,
} from '../base/check-option.js'
import { DEFAULT_TIMES } from '../base/default-times.js'
import { type Logger, wrappedLogger } from '../base/logger.js'
import type { DaemonOptions } from '../daemon/daemon.js'
import { defaultControl, slotOf } from '../os/default-control.js'

export const MOST_WORKERS = 256
const LONGEST_NAME = 124

export interface WorkersOptions {
  /** Name of the service, which each worker passes to `join()`. */
  service: string
  /** Number of workers; `auto`: one for each processor that this process may use. */
  workers: number | 'auto'
  /** Command of each worker with its arguments, found as a shell would find it. Default: the command of this process. */
  command?: readonly string[] | undefined
  /** Path of the control socket, at most 106 bytes. Default: as for `join()`. */
  control?: string | undefined
  /** How an upgrade replaces the workers after the first one: one after the other (default), or all at once. */
  replace?: 'one-by-one' | 'at-once' | undefined
  /** pino-compatible. Default: nothing is logged. */
  logger?: Logger | undefined
  /** Time for a worker to serve, in milliseconds. Default 60 000. */
  timeout?: number | undefined
  /**
   * Delay in milliseconds before a worker is started again that ended within a second after it started to serve, or that failed to start.
   * Doubled after each further failure to start, up to 30 s. Default 500.
   */
  restartDelay?: number | undefined
  /**
   * Time in milliseconds for workers to stop serving when this process ends and `close()` has no `timeout`; then they are killed. Default
   * 30 000; `off`: they are not killed. The drain of their connections is configured separately.
   */
  stopTimeout?: number | 'off' | undefined
  /**
   * Time in milliseconds after which a worker that runs but sends no heartbeats is replaced. Default 10 000; `off`: it is not replaced. The
   * first worker, which decides all state changes, is replaced after 2 s. After 2 s other workers accept on a silent worker's listeners.
   */
  hungTimeout?: number | 'off' | undefined
  /** This and the next two as for `serveDaemon()`: the main process is a daemon. */
  systemd?: DaemonOptions['systemd'] | undefined
  pidFile?: string | undefined
  mainProcess?: DaemonOptions['mainProcess'] | undefined
  /** An abort closes the main process. */
  signal?: AbortSignal | undefined
}

/** The options of {@link startWorkers}, with their defaults. */
export type WorkersSettings = Readonly<ReturnType<typeof settleWorkers>>

const OPTIONS: OptionChecks<WorkersOptions> = {
  service: nameUpTo(LONGEST_NAME),
  workers: unchecked,
  command: predicate(
    'a list of texts, of which the first is a program',
    value => Array.isArray(value) && value.length > 0 && value.every(word => typeof word === 'string'),
  ),
  control: path(),
  replace: oneOf('one-by-one', 'at-once'),
  logger: unchecked,
  timeout: milliseconds(1),
  restartDelay: milliseconds(1),
  stopTimeout: orOff(milliseconds(1)),
  hungTimeout: orOff(milliseconds(2_000)),
  systemd: unchecked,
  pidFile: unchecked,
  mainProcess: unchecked,
  signal: abortSignal,
}

/** Throws ERR_FDB_OPTION. */
export function settleWorkers(options: WorkersOptions) {
  checkOptions('startWorkers()', options, OPTIONS)
  OPTIONS.service(options.service, 'service')
  const { service, workers, command, control, replace = 'one-by-one' } = options
  const {
    logger,
    timeout = DEFAULT_TIMES.ready.ms,
    restartDelay = DEFAULT_TIMES.workerRestartDelay.ms,
  } = options
  const { stopTimeout = DEFAULT_TIMES.stop.ms, hungTimeout = DEFAULT_TIMES.hung.ms } = options
  return {
    service,
    count: countOf(workers),
    /** Null: the command of this process. */
    command: command ?? null,
    control: resolve(control ?? defaultControl(slotOf(service, 0), process.env)),
    replace,
    logger: wrappedLogger(logger),
    timeout,
    restartDelay,
    /** Null: workers have no limit to stop. */
    stopTimeout: stopTimeout === 'off' ? null : stopTimeout,
    /** Null: silent workers are not replaced. */
    hungTimeout: hungTimeout === 'off' ? null : hungTimeout,
  }
}

/** Throws ERR_FDB_OPTION. */
export function countOf(workers: unknown): number {
  if (workers === 'auto') return Math.min(availableParallelism(), MOST_WORKERS)
  if (typeof workers === 'number' && Number.isInteger(workers) && workers >= 1 && workers <= MOST_WORKERS)
    return workers
  throw wrongOption('workers', workers, `a number from 1 to ${MOST_WORKERS}, or "auto"`)
}
