import { readFileSync } from 'node:fs'
import { shareGiven } from './given-time.js'

/** The processor time of a process's main thread, in milliseconds. The kernel counts it every few of them. */
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

const RUNS = 3

/**
 * The least of up to three runs, of each figure that `measure` gives: until each was below `bound`. If a hypervisor takes a processor in the
 * middle of a turn, the time counts as work of the running process: a loop of C that only looks at its clocks is seen to work for 38 ms between two
 * looks, where others share the machine. That is in some runs; the work of the code is in all of them. A run above the bound is reported. Where
 * others had processors of this machine during a run, its figures are of the part that was left.
 */
export async function leastOf(bound: number, measure: () => Promise<readonly number[]>): Promise<number[]> {
  const least: number[] = []
  for (let run = 0; run < RUNS; run++) {
    const share = shareGiven()
    const seen = await measure()
    const left = share()
    const figures = seen.map(figure => figure * left)
    for (const [i, figure] of figures.entries()) least[i] = Math.min(least[i] ?? figure, figure)
    if (least.every(figure => figure < bound)) break
    console.log(
      `run ${run + 1} of ${RUNS}: ${seen.map(figure => figure.toFixed(1)).join(' and ')} ms with ${left.toFixed(2)} of the processors, the bound is ${bound}`,
    )
  }
  return least
}
