// @ts-check
// The cost of metrics: CPU time a request of two proxies without them, of one with them, and of one that is also scraped each second, in turns.
import { median } from '../median.mjs'
import { startProxy } from './kinds.mjs'
import { cpu } from './processes.mjs'

const SCRAPE_MS = 1_000

/**
 * Returns the cost of each in microseconds, and, of that of the first, the median over the rounds.
 * @typedef {{ costs: number[], us: number, ofWithout: number }} Cost
 * @param {{ bare: import('./bare.mjs').Bare, folder: string, upstreamPort: number, rounds: number, seconds: number, load: Pick<import('./bare.mjs').Load, 'connections' | 'path' | 'head'> }} options
 * @returns {Promise<{ without: Cost, again: Cost, counting: Cost, scraped: Cost }>}
 */
export async function metricsCost({ bare, folder, upstreamPort, rounds, seconds, load }) {
  const start = (/** @type {boolean} */ metrics) => startProxy(folder, upstreamPort, { metrics })
  const proxies = {
    without: await start(false),
    counting: await start(true),
    again: await start(false),
    scraped: await start(true),
  }
  const costs = { without: [], counting: [], again: [], scraped: [] }
  try {
    // The first round warms the code up and is thrown away.
    for (let round = 0; round <= rounds; round++) {
      for (const [kind, { port, pids, scrape }] of Object.entries(proxies)) {
        const processes = pids()
        let before = Number.NaN
        /** @type {NodeJS.Timeout | undefined} */
        let timer
        const seen = await bare.load(port, { ...load, seconds, warm: 0.2 }, () => {
          before = cpu(processes)
          if (kind !== 'scraped') return
          void scrape()
          timer = setInterval(() => void scrape(), SCRAPE_MS)
        })
        const used = cpu(processes) - before
        clearInterval(timer)
        if (round > 0) costs[/** @type {'without'} */ (kind)].push(/** @type {never} */ (used / seen.answers))
      }
    }
  } finally {
    for (const { end } of Object.values(proxies)) end()
  }
  const cost = (/** @type {number[]} */ own) => ({
    costs: own,
    us: median(own),
    ofWithout: median(own.map((us, round) => us / (costs.without[round] ?? Number.NaN))),
  })
  const { without, again, counting, scraped } = costs
  return { without: cost(without), again: cost(again), counting: cost(counting), scraped: cost(scraped) }
}
