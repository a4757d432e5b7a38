// @ts-check
// npm run bench -- routes: what a lookup costs with 10 to 1,000,000 routes, what building the table costs, how long it
// stalls the event loop at most, and what a route costs in memory. Lookups are measured twice: with 500 of the routes in
// use (what the algorithm costs), and with all of them at random (and what memory outside of the cache adds to it).
import { setImmediate as nextTurn } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { RouteTable } from '../../build/modules/proxy/routes/table.js'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'

const { values: flags } = parseArgs({
  options: { rounds: { type: 'string', default: '9' }, json: { type: 'string' } },
})
const rounds = Number(flags.rounds)
const SIZES = [10, 1000, 100_000, 1_000_000]
const LOOKUPS = 50_000
/** Made, then looked up: in the processor's cache, and never hashed before, as strings are that a parser just made. */
const BATCH = 500
const SLICE_MS = 3

setFlagsFromString('--expose-gc')
const collect = /** @type {() => void} */ (runInNewContext('gc'))

/** @typedef {{ host: string, path: string }} Place */
/** @type {{ name: string, place: (i: number) => Place, target: (i: number) => Place }[]} */
const SHAPES = [
  {
    name: 'a host each',
    place: i => ({ host: `shop${i}.example.com`, path: '/' }),
    target: i => ({ host: `shop${i}.example.com`, path: '/cart/items?page=2' }),
  },
  {
    name: 'paths of one host',
    place: i => ({ host: 'example.com', path: `/api/tenant${i}` }),
    target: i => ({ host: 'example.com:8080', path: `/api/tenant${i}/users/7` }),
  },
  {
    name: 'paths with * of one host',
    place: i => ({ host: 'example.com', path: `/api/tenant${i}/*/orders` }),
    target: i => ({ host: 'example.com:8080', path: `/api/tenant${i}/7/orders/8` }),
  },
  {
    name: 'a wildcard each',
    place: i => ({ host: `*.shop${i}.example.com`, path: '/' }),
    target: i => ({ host: `www.shop${i}.example.com`, path: '/cart' }),
  },
]

/**
 * In slices, as the proxy does it.
 * @param {(i: number) => Place} place
 * @param {number} count
 */
async function build(place, count) {
  collect()
  const before = process.memoryUsage().heapUsed
  /** @type {RouteTable<object>} */
  const routes = new RouteTable()
  const value = {}
  let longest = 0
  const began = performance.now()
  let started = began
  for (let i = 0; i < count; i++) {
    routes.put({ origin: 'file', ...place(i) }, value)
    if (performance.now() - started < SLICE_MS) continue
    longest = Math.max(longest, performance.now() - started)
    await nextTurn()
    started = performance.now()
  }
  const ms = performance.now() - began
  collect()
  const bytes = (process.memoryUsage().heapUsed - before) / count
  return { routes, ms, longest, bytes }
}

/**
 * Nanoseconds a lookup.
 * @param {RouteTable<object>} routes
 * @param {(i: number) => Place} target
 * @param {number} count
 * @param {number} used of the routes
 */
function time(routes, target, count, used) {
  let found = 0
  let ms = 0
  for (let done = 0; done < LOOKUPS; done += BATCH) {
    const requests = Array.from({ length: BATCH }, (_, i) => {
      const { host, path } = target(Math.floor((((done + i) * 7919) % used) * (count / used)))
      return { host: Buffer.from(host).toString('latin1'), path: Buffer.from(path).toString('latin1') }
    })
    const started = performance.now()
    for (const { host, path } of requests) if (typeof routes.lookup(host, path) === 'object') found++
    ms += performance.now() - started
  }
  if (found !== LOOKUPS) throw new Error(`${LOOKUPS - found} of ${LOOKUPS} lookups found nothing`)
  return (ms * 1e6) / LOOKUPS
}

const progress = new Progress()
const figures = new Figures('routes')
/** @type {(string | number)[][]} */
const rows = [
  ['routes', 'shape', 'ns, 500 in use', 'ns, all in use', 'build ms', 'longest slice ms', 'bytes a route'],
]
for (const { name, place, target } of SHAPES) {
  /** @type {{ count: number, routes: RouteTable<object>, ns: number[], all: number[], row: (string | number)[] }[]} */
  const sizes = []
  for (const count of SIZES) {
    progress.show([`${name}: building ${count} routes`], `${name}: building ${count} routes`)
    const { routes, ms, longest, bytes } = await build(place, count)
    const row = [count, name, '', '', ms.toFixed(0), longest.toFixed(1), count < 1000 ? '' : bytes.toFixed(0)]
    rows.push(row)
    sizes.push({ count, routes, ns: [], all: [], row })
  }
  // The sizes in turns; the first two rounds warm the code up and are thrown away.
  for (let round = -2; round < rounds; round++) {
    for (const { count, routes, ns, all } of sizes) {
      const some = time(routes, target, count, Math.min(count, 500))
      const every = time(routes, target, count, count)
      if (round < 0) continue
      ns.push(some)
      all.push(every)
    }
    await nextTurn()
  }
  for (const { ns, all, row } of sizes) {
    row[2] = median(ns).toFixed(0)
    row[3] = median(all).toFixed(0)
  }
  const few = median(sizes[0]?.ns ?? [])
  for (const { count, ns } of sizes.slice(1)) {
    figures.add(`${name}: lookup with ${count}`, median(ns) / few, 'x that with 10', '<=', 4)
  }
  figures.add(`${name}: with 100000, all in use`, median(sizes[2]?.all ?? []) / 1000, 'us', '<=', 3)
}
progress.clear()
console.log(`${table(rows).join('\n')}\n`)
figures.finish(flags.json)
