import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import {
  abortSignal,
  type Checks,
  checkOptions,
  milliseconds,
  nameUpTo,
  oneOf,
  orOff,
  path,
  predicate,
  unchecked,
  wrongOption,
} from '../base/check-option.js'
import { type Logger, takenLogger } from '../base/logger.js'
import type { DaemonOptions } from '../daemon/daemon.js'
import { defaultControl, slotOf } from '../os/default-control.js'

/** More are a fault, not a need. */
export const MOST_WORKERS = 256
const LONGEST_NAME = 124

export interface WorkersOptions {
  /** The service of all of them, which each gives to `join()`. */
  service: string
  /** The number of processes; `auto`: one for each processor that this process may use. */
  workers: number | 'auto'
  /**
   * The command of each worker, with its arguments: found as a shell would find it. Default: the command that this process was started
   * with.
   */
  command?: readonly string[]
  /** Path of the control socket, at most 106 bytes. Default: as that of `join()`. */
  control?: string
  /** In an upgrade: the first, then the others one after the other (default), or then all of them at once. */
  replace?: 'one-by-one' | 'at-once'
  /** pino-compatible. Default: nothing is logged. */
  logger?: Logger
  /** Within which a worker has to serve, milliseconds. Default 60 000. */
  timeout?: number
  /** Before a worker is started again that has ended twice within a second, milliseconds; doubled each time, at most 30 s. Default 500. */
  restartDelay?: number
  /**
   * When this process is to end, and no time was given to `close()`: a worker that has not stopped serving by then is killed, milliseconds.
   * Default 30 000; `off`: it is waited for as long as it takes. Its connections end as it is configured.
   */
  stopTimeout?: number | 'off'
  /**
   * A worker that lives and is silent for so long is replaced, milliseconds; the first one after 2 s already, as it decides the changes of all. Default
   * 10 000; `off`: never. Others accept what comes to its listeners after 2 s.
   */
  hungTimeout?: number | 'off'
  /** As those of `serveDaemon()`: this process is one. */
  systemd?: DaemonOptions['systemd']
  pidFile?: string
  mainProcess?: DaemonOptions['mainProcess']
  /** Closes it. */
  signal?: AbortSignal
}

export interface WorkersSettings {
  readonly service: string
  readonly count: number
  /** Null: as this process was started. */
  readonly command: readonly string[] | null
  readonly control: string
  readonly replace: 'one-by-one' | 'at-once'
  readonly logger: Logger
  readonly timeout: number
  readonly restartDelay: number
  /** Null: for ever. */
  readonly stopTimeout: number | null
  /** Null: never. */
  readonly hungTimeout: number | null
}

const OPTIONS: Checks<WorkersOptions> = {
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
export function settleWorkers(options: WorkersOptions): WorkersSettings {
  checkOptions('startWorkers()', options, OPTIONS)
  OPTIONS.service(options.service, 'service')
  const { service, workers, command, control, replace = 'one-by-one' } = options
  const { logger, timeout = 60_000, restartDelay = 500, stopTimeout = 30_000 } = options
  const { hungTimeout = 10_000 } = options
  return {
    service,
    count: countOf(workers),
    command: command ?? null,
    control: resolve(control ?? defaultControl(slotOf(service, 0), process.env)),
    replace,
    logger: takenLogger(logger),
    timeout,
    restartDelay,
    stopTimeout: stopTimeout === 'off' ? null : stopTimeout,
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
