// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

/**
 * @typedef {import('./load.mjs').LoadOptions} LoadOptions
 * @typedef {import('./load.mjs').LoadReport} LoadReport
 * @typedef {ReturnType<import('./load.mjs').Load['snapshot']>} Snapshot
 */

/**
 * The load in a process of its own, so that what the caller does does not make it late. The same calls as startLoad();
 * `snapshot()` is at most `every` ms old and null before the first one.
 * @param {Omit<LoadOptions, 'workload'> & { routes?: number, lines?: number, every?: number, workload?: 'shop' | 'proxy' }} options
 */
export function spawnLoad(options) {
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const main = fileURLToPath(new URL('main.mjs', import.meta.url))
  const child = spawn(process.execPath, [main, '--piped', ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  /** @type {Snapshot | null} */
  let latest = null
  /** @type {((report: import('./tally.mjs').TallyReport) => void)[]} */
  const marks = []
  /** @type {LoadReport | null} */
  let report = null
  const ended = once(child, 'close')
  createInterface(child.stdout).on('line', line => {
    const { type, ...value } = JSON.parse(line)
    if (type === 'snapshot') latest = value
    else if (type === 'phase') marks.shift()?.(value)
    else if (type === 'report') report = value
  })

  return {
    /** @returns {Snapshot | null} */
    snapshot: () => latest,
    /** @param {string} name @returns {Promise<import('./tally.mjs').TallyReport>} */
    mark(name) {
      child.stdin.write(`${JSON.stringify({ mark: name })}\n`)
      return new Promise((resolve, reject) => {
        marks.push(resolve)
        ended.then(() => reject(new Error('the load process ended early')))
      })
    },
    /** @returns {Promise<LoadReport>} */
    async stop() {
      child.stdin.end(`${JSON.stringify({ stop: true })}\n`)
      const [code, signal] = await ended
      if (!report)
        throw new Error(`the load process ended without a report: ${signal ?? `exit code ${code}`}`)
      return report
    },
    /** Ends it at once, without a report. */
    kill: () => child.kill('SIGKILL'),
  }
}
