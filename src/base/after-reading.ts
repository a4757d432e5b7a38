import { LONGEST_MS } from './duration.js'

export interface Limit {
  /** Idempotent. */
  clear(): void
  /** Whether the timer keeps the process alive; by default it does. */
  keepAlive(on: boolean): void
}

/**
 * Calls `onTimeout` after `ms` milliseconds, but first lets the event loop read everything that has arrived: after a SIGSTOP or a long
 * computation of this process, an answer in time must not count as late.
 */
export function afterReading(ms: number, onTimeout: () => void, { unref = false } = {}): Limit {
  return startTimer(setTimeout, ms, onTimeout, unref)
}

/**
 * Calls `judge` every `ms` milliseconds, each time after reading as {@link afterReading}, with the time before the reading (as
 * `performance.now()`): what arrived earlier is read; what has arrived since may not be, if a callback took long between the two. So a
 * silence counts up to that time. `look` is called before the reading.
 */
export function everyAfterReading(
  ms: number,
  judge: (readUntil: number) => void,
  { unref = false, look }: { unref?: boolean; look?: () => void } = {},
): Limit {
  return startTimer(setInterval, ms, judge, unref, look)
}

function startTimer(
  start: (onTimer: () => void, ms: number) => NodeJS.Timeout,
  ms: number,
  act: (readUntil: number) => void,
  unref: boolean,
  look?: () => void,
): Limit {
  let reading: NodeJS.Immediate | undefined
  const timer = start(
    () => {
      look?.()
      clearImmediate(reading)
      // A turn of the event loop runs timers, then reads sockets, then runs immediates.
      reading = setImmediate(act, performance.now())
    },
    Math.min(ms, LONGEST_MS),
  )
  if (unref) timer.unref()
  return {
    clear: () => {
      clearTimeout(timer)
      clearImmediate(reading)
    },
    keepAlive: on => {
      if (on) timer.ref()
      else timer.unref()
    },
  }
}
