// @ts-check
// The cost of metrics: CPU time a request of two proxies without them, of one with them, and of one that is also scraped each second, in turns.
import { readdirSync, readFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { median } from '../median.mjs'
import { startProxy } from './kinds.mjs'
import { cpu } from './processes.mjs'

const SCRAPE_MS = 1_000
const WARM_SECONDS = 3

/**
 * Returns the cost of each in microseconds, and, of that of the first, the median over the rounds.
 * @typedef {{ costs: number[], us: number, ofWithout: number }} Cost
 * @typedef {{ without: Cost, again: Cost, counting: Cost, scraped: Cost }} Costs
 * @typedef {{ bare: import('./bare.mjs').Bare, folder: string, upstreamPort: number, rounds: number, seconds: number,
 *   load: Pick<import('./bare.mjs').Load, 'connections' | 'path' | 'head'> }} Options
 */

/**
 * Under as much load as one process takes, one proxy after the other in each round.
 * @param {Options} options
 */
export function metricsCost({ bare, load, rounds, seconds, ...options }) {
  return compare(options, rounds, async (proxies, round) => {
    for (const { port, pids, scrape, kind, cost } of proxies) {
      let before = Number.NaN
      let scraping = () => {}
      const seen = await bare.load(port, { ...load, seconds, warm: 0.2 }, () => {
        before = cpu(pids())
        if (kind === 'scraped') scraping = eachSecond(scrape)
      })
      // The first round warms the code up and is thrown away.
      if (round > 0) cost((cpu(pids()) - before) / seen.answers)
      scraping()
    }
  })
}

/**
 * At `rate` requests a second, all proxies at the same time: what metrics cost each second counts most here.
 * @param {Options & { rate: number }} options
 */
export function metricsCostAt({ bare, load, rate, rounds, seconds, ...options }) {
  return compare(options, rounds, async (proxies, round) => {
    // At a low rate the code would stay cold for minutes.
    if (round === 0) {
      for (const { port } of proxies) await bare.load(port, { ...load, seconds: WARM_SECONDS, warm: 0 })
      return
    }
    const stops = proxies.flatMap(({ kind, scrape }) => (kind === 'scraped' ? [eachSecond(scrape)] : []))
    const before = proxies.map(({ pids }) => cpuExactly(pids()))
    const answers = await Promise.all(proxies.map(({ port }) => asked(port, rate, seconds)))
    for (const stop of stops) stop()
    for (const [i, { pids, cost }] of proxies.entries())
      cost((cpuExactly(pids()) - (before[i] ?? 0)) / (answers[i] ?? 0))
  })
}

/** @param {() => Promise<unknown>} scrape */
function eachSecond(scrape) {
  const timer = setInterval(() => void scrape(), SCRAPE_MS)
  void scrape()
  return () => clearInterval(timer)
}

/** Returns how many answers came over one connection. @param {number} port @param {number} rate @param {number} seconds */
async function asked(port, rate, seconds) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const begun = performance.now()
  let answers = 0
  for (; answers < rate * seconds; answers++) {
    const early = begun + (1_000 * answers) / rate - performance.now()
    if (early > 0) await sleep(early)
    await new Promise((resolve, reject) => {
      get({ port, host: '127.0.0.1', agent, headers: { host: 'example.com' } }, response =>
        response.resume().on('end', resolve),
      ).on('error', reject)
    })
  }
  agent.destroy()
  return answers
}

/** In microseconds, of all threads. @param {number[]} pids */
function cpuExactly(pids) {
  const files = pids.flatMap(pid =>
    readdirSync(`/proc/${pid}/task`).map(tid => `/proc/${pid}/task/${tid}/schedstat`),
  )
  return files.reduce((sum, file) => sum + Number(readFileSync(file, 'utf8').split(' ')[0]) / 1_000, 0)
}

/**
 * @typedef {Awaited<ReturnType<typeof startProxy>> & { kind: keyof Costs, cost: (us: number) => void }} Measured
 * @param {Pick<Options, 'folder' | 'upstreamPort'>} options @param {number} rounds
 * @param {(proxies: Measured[], round: number) => Promise<void>} measure
 * @returns {Promise<Costs>}
 */
async function compare({ folder, upstreamPort }, rounds, measure) {
  /** @type {Record<keyof Costs, number[]>} */
  const costs = { without: [], counting: [], again: [], scraped: [] }
  /** @type {Measured[]} */
  const proxies = []
  try {
    for (const kind of /** @type {(keyof Costs)[]} */ (Object.keys(costs))) {
      const proxy = await startProxy(folder, upstreamPort, {
        metrics: kind === 'counting' || kind === 'scraped',
      })
      proxies.push({ ...proxy, kind, cost: us => void costs[kind].push(us) })
    }
    for (let round = 0; round <= rounds; round++) await measure(proxies, round)
  } finally {
    for (const { end } of proxies) end()
  }
  const cost = (/** @type {number[]} */ own) => ({
    costs: own,
    us: median(own),
    ofWithout: median(own.map((us, round) => us / (costs.without[round] ?? Number.NaN))),
  })
  const { without, again, counting, scraped } = costs
  return { without: cost(without), again: cost(again), counting: cost(counting), scraped: cost(scraped) }
}
