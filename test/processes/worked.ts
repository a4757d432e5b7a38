import { readFileSync } from 'node:fs'

/** What the main thread of a process has had of the processors, in milliseconds. The kernel counts it every few of them. */
export function processorMs(pid: number = process.pid): number {
  const [nanoseconds] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'latin1').split(' ')
  return Number(nanoseconds) / 1e6
}

/**
 * Starts to measure; the function returned says how long the main thread of `pid` has worked since, at most: by the clock,
 * or by its share of the processors where others had them meanwhile. So a bound on it holds on a busy machine too.
 */
export function workOf(pid?: number): () => number {
  const [clock, processor] = [performance.now(), processorMs(pid)]
  return () => Math.min(performance.now() - clock, processorMs(pid) - processor)
}
