import { availableParallelism, constants } from 'node:os'
import { resolve } from 'node:path'
import { DEFAULT_TIMES } from '../base/default-times.js'
import { type Logger, SILENT, wrappedLogger } from '../base/logger.js'
import { hooksShape } from '../checks/hooks.js'
import { abortSignal, checkOptions, hook, logger, nameUpTo, path } from '../checks/options.js'
import { absent, map, optional, required, type ShapeOf } from '../checks/shape.js'
import {
  isTexts,
  milliseconds,
  oneOf,
  orOff,
  predicate,
  unchecked,
  type ValueCheck,
} from '../checks/values.js'
import type { DaemonOptions } from '../daemon/daemon.js'
import type { JoinOptions } from '../member/options/options.js'
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
  /** Commands for `sh`, or URLs that get a POST, for the outcomes of upgrades of all workers, as `hooks` of `join()`. */
  hooks?: JoinOptions['hooks'] | undefined
  /** An abort closes the main process. */
  signal?: AbortSignal | undefined
}

/** The options of {@link startWorkers}, with their defaults. */
export type WorkersSettings = Readonly<ReturnType<typeof settleWorkers>>

const count: ValueCheck<number> = (value, place) => {
  if (value === 'auto') return Math.min(availableParallelism(), MOST_WORKERS)
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= MOST_WORKERS)
    return value
  return place.refuse(value, `a number from 1 to ${MOST_WORKERS}, or "auto"`)
}

const OPTIONS = map({
  service: required(nameUpTo(LONGEST_NAME)),
  workers: required(count),
  command: absent(
    predicate<readonly string[]>(
      'a list of texts, of which the first is a program',
      value => isTexts(value) && value.length > 0,
    ),
    null,
  ),
  control: absent(path()),
  replace: optional(oneOf('one-by-one', 'at-once'), 'one-by-one'),
  logger: optional(logger, SILENT),
  timeout: optional(milliseconds(1), DEFAULT_TIMES.ready.ms),
  restartDelay: optional(milliseconds(1), DEFAULT_TIMES.workerRestartDelay.ms),
  stopTimeout: optional(orOff(milliseconds(1)), DEFAULT_TIMES.stop.ms),
  hungTimeout: optional(orOff(milliseconds(2_000)), DEFAULT_TIMES.hung.ms),
  systemd: absent(unchecked()),
  pidFile: absent(unchecked()),
  mainProcess: absent(unchecked()),
  hooks: absent(map(hooksShape(milliseconds(1), DEFAULT_TIMES.hook.ms)), null),
  signal: absent(abortSignal),
} satisfies ShapeOf<WorkersOptions>)

/** Throws ERR_FDB_OPTION. */
export function settleWorkers(options: WorkersOptions) {
  const given = checkOptions('startWorkers()', options, OPTIONS)
  const { service, workers, command, control, replace, timeout, restartDelay } = given
  return {
    service,
    count: workers,
    /** With null it is the command of this process. */
    command,
    control: resolve(control ?? defaultControl(slotOf(service, 0), process.env)),
    replace,
    logger: wrappedLogger(given.logger),
    timeout,
    restartDelay,
    /** With null workers have no limit to stop. */
    stopTimeout: given.stopTimeout,
    /** With null silent workers are not replaced. */
    hungTimeout: given.hungTimeout,
    hooks: given.hooks,
  }
}

const CLOSE = map({ timeout: absent(milliseconds(0)) })
const SIGNAL = predicate<NodeJS.Signals>(
  'the name of a signal, for example SIGUSR1',
  value => typeof value === 'string' && Object.hasOwn(constants.signals, value),
)
const COUNT_FUNCTION = hook<() => Promise<number | 'auto'>>('a function that returns the number of workers')

// Checks of the arguments of Workers' methods, which throw ERR_FDB_OPTION.

export function countOf(workers: unknown): number {
  return checkOptions('set()', workers, count, 'workers')
}

export function closeTimeoutOf(options: unknown): number | null {
  return checkOptions('close()', options, CLOSE).timeout ?? null
}

export function signalOf(signal: unknown): NodeJS.Signals {
  return checkOptions('signal()', signal, SIGNAL, 'signal')
}

export function countFunctionOf(count: unknown): () => Promise<number | 'auto'> {
  return checkOptions('onReload()', count, COUNT_FUNCTION, 'count')
}
