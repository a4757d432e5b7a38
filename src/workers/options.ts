import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { checkKeys, checkMs, checkSignal, type Keys, wrongOption } from '../base/check-option.js'
import { type Logger, takenLogger } from '../base/logger.js'
import type { DaemonOptions } from '../daemon/daemon.js'
import { defaultControl, slotOf } from '../os/default-control.js'

/** More are a fault, not a need. */
export const MOST_WORKERS = 256
const LONGEST_NAME = 124

export interface WorkersOptions {
  /** What all of them serve: what each gives to `join()`. */
  service: string
  /** So many processes; `auto`: one for each processor that this process may use. */
  workers: number | 'auto'
  /** What each worker runs, with its arguments: found as a shell would find it. Default: the command that this process was started with. */
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

const OPTIONS: Keys<WorkersOptions> = {
  service: true,
  workers: true,
  command: true,
  control: true,
  replace: true,
  logger: true,
  timeout: true,
  restartDelay: true,
  stopTimeout: true,
  hungTimeout: true,
  systemd: true,
  pidFile: true,
  mainProcess: true,
  signal: true,
}

/** Throws ERR_FDB_OPTION. */
export function settleWorkers(options: WorkersOptions): WorkersSettings {
  checkKeys('startWorkers()', options, OPTIONS)
  const { service, workers, command, control, replace = 'one-by-one' } = options
  const { logger, timeout = 60_000, restartDelay = 500, stopTimeout = 30_000 } = options
  const { hungTimeout = 10_000 } = options
  if (typeof service !== 'string' || service === '' || service.length > LONGEST_NAME)
    throw wrongOption('service', service, `a name of 1 to ${LONGEST_NAME} characters`)
  if (control !== undefined && (typeof control !== 'string' || control === ''))
    throw wrongOption('control', control, 'a path')
  if (
    command !== undefined &&
    !(Array.isArray(command) && command.length > 0 && command.every(word => typeof word === 'string'))
  )
    throw wrongOption('command', command, 'a list of texts, of which the first is a program')
  if (replace !== 'one-by-one' && replace !== 'at-once')
    throw wrongOption('replace', replace, '"one-by-one" or "at-once"')
  checkSignal(options.signal)
  checkMs('timeout', timeout, 1)
  checkMs('restartDelay', restartDelay, 1)
  if (stopTimeout !== 'off') checkMs('stopTimeout', stopTimeout, 1)
  if (hungTimeout !== 'off') checkMs('hungTimeout', hungTimeout, 2_000)
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
