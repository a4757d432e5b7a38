// @ts-check
import { fileURLToPath } from 'node:url'
import { spawnReporter } from '../reporter.mjs'

/**
 * @typedef {import('./load.mjs').LoadOptions} LoadOptions
 * @typedef {import('./load.mjs').LoadReport} LoadReport
 * @typedef {ReturnType<import('./load.mjs').Load['snapshot']>} Snapshot
 */

const MAIN = fileURLToPath(new URL('main.mjs', import.meta.url))

/**
 * The load in a process of its own, so that what the caller does does not make it late. The same calls as startLoad();
 * `snapshot()` is at most `every` ms old and null before the first one.
 * @param {Omit<LoadOptions, 'workload'> & { routes?: number, lines?: number, every?: number, workload?: 'shop' | 'proxy' }} options
 */
export function spawnLoad(options) {
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const { pid, snapshot, ask, stop, kill } = spawnReporter(MAIN, ['--piped', ...args])
  return {
    pid,
    /** @type {() => Snapshot | null} */
    snapshot,
    /** @type {(name: string) => Promise<import('./tally.mjs').TallyReport>} */
    mark: name => ask({ mark: name }),
    /** @type {() => Promise<LoadReport>} */
    stop,
    /** Ends it at once, without a report. */
    kill,
  }
}
