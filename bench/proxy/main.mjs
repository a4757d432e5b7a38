// @ts-check
// npm run bench -- proxy: CPU time a request (user and system, from /proc) of the reference proxy beside nginx, HAProxy and sozu where
// they are installed, beside node:http with undici, and beside a relay in C that understands as little as possible; with small and
// browser-like heads, with 10 KiB of answer, over 1 to 1,000 connections, in turns in one run, medians. Then what a tunnel costs, whether a
// burst of connects is answered, what requests over HTTP/2 (with h2load) and metrics cost, memory with idle connections, and p99 inside and outside the windows of upgrades, and while a large
// configuration is read again. About 8 minutes.
// Options: --rounds 5 --seconds 1 --idle 8000 --routes 100000 --upgrades 5 --rate 5000 --only requests,http2,metrics,tunnels,idle,windows,reloads --json FILE
// --release 0.4.0: the windows of that release's upgrades as well.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { median } from '../median.mjs'
import { releaseCommand } from '../release.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { Bare } from './bare.mjs'
import { CLI } from './edge.mjs'
import { HTTP2_CASES, hasH2load, http2Cost, startHttp2 } from './http2.mjs'
import {
  BARE,
  FEW,
  forked,
  message,
  OTHERS,
  OURS,
  startOther,
  startProxy,
  startTunnels,
  startUndici,
  UNDICI,
} from './kinds.mjs'
import { metricsCost, metricsCostAt } from './metrics.mjs'
import { cpu, memoryOf, rest } from './processes.mjs'
import { reloads } from './reloads.mjs'
import { windows } from './windows.mjs'

const text = /** @type {const} */ ('string')
const { values: flags } = parseArgs({
  options: {
    rounds: { type: text, default: '5' },
    seconds: { type: text, default: '1' },
    idle: { type: text, default: '8000' },
    routes: { type: text, default: '100000' },
    upgrades: { type: text, default: '5' },
    rate: { type: text, default: '5000' },
    only: { type: text, default: 'requests,http2,metrics,tunnels,idle,windows,reloads' },
    release: { type: text },
    json: { type: text },
  },
})
const rounds = Number(flags.rounds)
const seconds = Number(flags.seconds)
const parts = new Set(flags.only.split(','))
const GIGABYTE = 1e9
const BURST = 2000
const MANY_ROUTES = `${OURS}, ${flags.routes} routes`
const NGINX = 'nginx'
const OURS_LOGGED = `${OURS}, access log`
const NGINX_LOGGED = `${NGINX}, access log`

/** @typedef {import('./processes.mjs').Running} Running */

/** `all`: proxies that are measured with nothing else too. */
const USUAL = {
  name: '64 connections',
  connections: 64,
  path: '/',
  head: /** @type {'small' | 'browser'} */ ('small'),
  all: true,
}
const CASES = [
  { ...USUAL, name: '1 connection', connections: 1, all: false },
  { ...USUAL, name: '8', connections: 8, all: false },
  USUAL,
  { ...USUAL, name: '1,000', connections: 1000, all: false },
  { ...USUAL, name: '64, browser’s heads', head: /** @type {'small' | 'browser'} */ ('browser'), all: false },
  { ...USUAL, name: '64, 10 KiB', path: '/10k', all: false },
]

const progress = new Progress()
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
const bare = new Bare(folder)
const figures = new Figures('proxy')
const installed = OTHERS.filter(({ version }) => version !== null)
/** @type {(() => void)[]} */
const ends = []

/** @template {{ end: () => void }} T @param {T} running @returns {T} */
function kept(running) {
  ends.push(running.end)
  return running
}

/** @param {number} value @param {number} digits */
const shown = (value, digits) => (Number.isNaN(value) ? '' : value.toFixed(digits))

async function requests() {
  const { port: upstreamPort } = kept(await bare.start('server'))
  /** @type {Record<string, Running>} */
  const kinds = { [BARE]: kept(await bare.start('relay', upstreamPort)) }
  for (const { name, start } of installed) kinds[name] = kept(await startOther(start, folder, upstreamPort))
  kinds[OURS] = kept(await startProxy(folder, upstreamPort))
  kinds[MANY_ROUTES] = kept(await startProxy(folder, upstreamPort, { routes: Number(flags.routes) }))
  kinds[OURS_LOGGED] = kept(await startProxy(folder, upstreamPort, { accessLog: true }))
  for (const { name, start } of installed)
    if (name === NGINX) kinds[NGINX_LOGGED] = kept(await startOther(start, folder, upstreamPort, true))
  kinds[UNDICI] = kept(await startUndici(upstreamPort))
  const rare = new Set([MANY_ROUTES, OURS_LOGGED, NGINX_LOGGED, UNDICI])
  /** @type {Record<string, { cost: number, p99: number }[]>} */
  const runs = {}
  /** @type {Record<string, number[]>} */
  const dropped = {}
  /** Proxies that closed connections of a load are left out of the next rounds: sozu does that with 1,000. */
  const unable = new Set()
  // The first round warms the code up and is thrown away.
  for (let round = 0; round <= rounds; round++) {
    for (const { name, all, ...load } of CASES) {
      for (const [kind, { port, pids }] of Object.entries(kinds)) {
        if ((rare.has(kind) && !all) || unable.has(`${kind} ${name}`)) continue
        progress.show([], `round ${round} of ${rounds}: ${kind}, ${name}`)
        const processes = pids()
        let before = Number.NaN
        const given = bare.load(port, { ...load, seconds, warm: 0.3 }, () => {
          before = cpu(processes)
        })
        const seen = await (kind === OURS ? given : given.catch(() => null))
        if (seen === null) {
          unable.add(`${kind} ${name}`)
          continue
        }
        const cost = (cpu(processes) - before) / seen.answers
        if (round > 0) (runs[`${kind} ${name}`] ??= []).push({ cost, p99: seen.p99 / 1000 })
      }
    }
    for (const [kind, { port }] of Object.entries(kinds)) {
      if (rare.has(kind)) continue
      progress.show([], `round ${round} of ${rounds}: ${kind}, a burst of connects`)
      const given = bare.load(port, { ...USUAL, connections: BURST, seconds: 5, warm: 0, head: 'once' })
      const seen = await given.catch(() => null)
      if (round > 0) (dropped[kind] ??= []).push(seen?.dropped ?? Number.NaN)
    }
  }
  for (const end of ends.splice(0)) end()
  progress.clear()
  /** @param {string} kind @param {string} name @param {'cost' | 'p99'} what */
  const of = (kind, name, what) => median((runs[`${kind} ${name}`] ?? []).map(run => run[what]))
  for (const [what, title, digits] of /** @type {const} */ ([
    ['cost', 'CPU µs a request', 1],
    ['p99', 'p99 ms', 2],
  ])) {
    const rows = Object.keys(kinds).map(kind => [
      kind,
      ...CASES.map(({ name }) => shown(of(kind, name, what), digits)),
    ])
    console.log(`${table([[title, ...CASES.map(({ name }) => name)], ...rows]).join('\n')}\n`)
  }
  for (const { name } of CASES) {
    const cost = of(OURS, name, 'cost')
    const ofBare = cost / of(BARE, name, 'cost')
    const ofNginx = kinds[NGINX] ? cost / of(NGINX, name, 'cost') : null
    if (name === USUAL.name) {
      figures.add(`CPU a request, ${name}, of ${BARE}`, ofBare, '', '<=', MOST_OF_BARE)
      if (ofNginx !== null) figures.add('the same, of nginx', ofNginx, '', '<=', MOST_OF_NGINX)
    } else {
      figures.info(`CPU a request, ${name}, of ${BARE}`, ofBare, '')
      if (ofNginx !== null) figures.info('the same, of nginx', ofNginx, '')
    }
  }
  if (kinds[NGINX_LOGGED]) {
    const logged = of(OURS_LOGGED, USUAL.name, 'cost') / of(NGINX_LOGGED, USUAL.name, 'cost')
    figures.add('CPU a request with an access log, of nginx with its own', logged, '', '<=', MOST_OF_NGINX)
  }
  const many = of(MANY_ROUTES, USUAL.name, 'cost')
  figures.add(
    `CPU a request with ${flags.routes} routes, of ${FEW}`,
    many / of(OURS, USUAL.name, 'cost'),
    '',
    '<=',
    1.3,
  )
  figures.add(
    `CPU a request, of ${UNDICI}`,
    of(OURS, USUAL.name, 'cost') / of(UNDICI, USUAL.name, 'cost'),
    '',
    '<=',
    0.75,
  )
  for (const [kind, counts] of Object.entries(dropped)) {
    if (counts.some(Number.isNaN)) continue
    const what = `dropped of ${BURST} connects at once, ${kind}`
    if (kind === OURS) figures.add(what, median(counts), '', '=', 0)
    else figures.info(what, median(counts), '')
  }
}

/** When it shows more, a request has become dearer, or the C relay cheaper. */
const MOST_OF_BARE = 2.5
const MOST_OF_NGINX = 1.6
/** Two equal proxies differ by so much on a busy machine. */
const MOST_OF_WITHOUT = 1.02
/** Requests a second at which what metrics cost each second counts most. */
const LOW_RATES = [10, 100, 1_000]
/** The bar, relative to a kept release in the same run. */
const MOST_OF_RELEASE = 1.5
/** At most this in the window of a change, or so many times what it is between two where the machine is slow, in milliseconds. */
const p99Beside = (/** @type {number} */ between) => Math.max(50, 10 * between)

/** For all idle connections to be there. */
const RESTING_MS = 20_000
/** Connections with one request after the other, before any is counted, and for how long. */
const WARMING = 64
const WARMING_MS = 1500

async function http2() {
  if (!hasH2load()) {
    console.log('h2load is not installed: apt-get install nghttp2-client')
    return
  }
  progress.show([], 'http2: the proxies')
  const { port: upstreamPort } = kept(await bare.start('server'))
  const kinds = await startHttp2(folder, upstreamPort, OURS)
  ends.push(...Object.values(kinds).map(({ end }) => end))
  /** @type {Record<string, number[]>} */
  const costs = {}
  // The first round warms the code up and is thrown away.
  for (let round = 0; round <= rounds; round++) {
    for (const load of HTTP2_CASES) {
      for (const [kind, running] of Object.entries(kinds)) {
        progress.show([], `round ${round} of ${rounds}: ${kind}, HTTP/2, ${load.name}`)
        const cost = await http2Cost(running, load, seconds)
        if (round > 0) (costs[`${kind} ${load.name}`] ??= []).push(cost)
      }
    }
  }
  for (const end of ends.splice(0)) end()
  progress.clear()
  const of = (/** @type {string} */ kind, /** @type {string} */ name) =>
    median(costs[`${kind} ${name}`] ?? [])
  const rows = Object.keys(kinds).map(kind => [
    kind,
    ...HTTP2_CASES.map(({ name }) => shown(of(kind, name), 1)),
  ])
  console.log(
    `${table([['CPU µs a request, HTTP/2', ...HTTP2_CASES.map(({ name }) => name)], ...rows]).join('\n')}\n`,
  )
  for (const { name } of HTTP2_CASES) {
    figures.info(`CPU a request, HTTP/2, ${name}`, of(OURS, name), 'µs')
    for (const other of Object.keys(kinds))
      if (other !== OURS) figures.info(`the same, of ${other}`, of(OURS, name) / of(other, name), '')
  }
}

async function metrics() {
  progress.show([], 'metrics: the proxy with and without')
  const { port: upstreamPort } = kept(await bare.start('server'))
  const options = { bare, folder, upstreamPort, load: USUAL, rounds: 2 * rounds, seconds: 2 * seconds }
  const full = await metricsCost(options)
  const costs = [{ at: '', bound: true, ...full }]
  for (const rate of LOW_RATES) {
    progress.show([], `metrics: at ${rate} requests/s`)
    costs.push({ at: ` at ${rate}/s`, bound: false, ...(await metricsCostAt({ ...options, rate })) })
  }
  progress.clear()
  for (const { at, bound, without, again, counting, scraped } of costs) {
    figures.info(`CPU a request without metrics${at}`, without.us, 'µs')
    figures.info(`another such proxy${at}, of the first`, again.ofWithout, '')
    const more = (/** @type {string} */ name, /** @type {number} */ value) =>
      bound ? figures.add(name, value, '', '<=', MOST_OF_WITHOUT) : figures.info(name, value, '')
    more(`with metrics${at}, of the first`, counting.ofWithout)
    more(`with a scrape each second${at}, of the first`, scraped.ofWithout)
  }
}

async function tunnels() {
  const { port } = kept(await bare.start('source', GIGABYTE))
  const kinds = await startTunnels(folder, port)
  ends.push(...Object.values(kinds).map(({ end }) => end))
  await rest(2000)
  /** @type {Record<string, number[]>} */
  const costs = {}
  for (let round = 0; round <= rounds; round++) {
    for (const [kind, tunnel] of Object.entries(kinds)) {
      progress.show([], `round ${round} of ${rounds}: a tunnel through ${kind}`)
      const before = cpu(tunnel.pids())
      if ((await bare.drain(tunnel.port)) !== GIGABYTE) throw new Error(`${kind} did not bring all`)
      if (round > 0) (costs[kind] ??= []).push((cpu(tunnel.pids()) - before) / 1e6)
    }
  }
  for (const end of ends.splice(0)) end()
  progress.clear()
  for (const [kind, cost] of Object.entries(costs))
    figures.info(`a tunnel, ${kind}`, median(cost), 's of CPU a GB')
}

/** Measures many keep-alive connections at rest after one request. */
async function idle() {
  const upstream = forked([], '../relay/upstream.mjs')
  ends.push(() => void upstream.kill())
  const { port: upstreamPort } = await message(upstream)
  /** The proxy keeps V8's semi-spaces at the 4 MiB of its start: what node:http needs with the same. */
  const tuned = `${UNDICI}, semi-spaces of 4 MiB`
  /** @type {Record<string, () => Promise<Running>>} */
  const kinds = {
    [OURS]: () => startProxy(folder, upstreamPort),
    [UNDICI]: () => startUndici(upstreamPort),
    [tuned]: () => startUndici(upstreamPort, ['--max-semi-space-size=4']),
  }
  for (const { name, start } of installed) kinds[name] = () => startOther(start, folder, upstreamPort)
  const count = Number(flags.idle)
  /** @type {Record<string, { each: number, before: number, peak: number }>} */
  const memory = {}
  for (const [kind, launch] of Object.entries(kinds)) {
    progress.show([], `idle connections: ${kind}`)
    const { port, pids, end } = kept(await launch())
    // Code, buffers and heaps of serving itself, whatever the number of connections.
    const warming = forked([], '../relay/load.mjs', port, WARMING)
    ends.push(() => void warming.kill())
    await rest(WARMING_MS)
    warming.kill()
    await rest(500)
    const before = memoryOf(pids(), 'VmRSS')
    const load = forked([], '../relay/load.mjs', port, 0, count)
    ends.push(() => void load.kill())
    const asked = async () => {
      const answer = message(load)
      load.send('?')
      return (await answer).resting
    }
    const until = performance.now() + RESTING_MS
    let resting = 0
    while ((resting = await asked()) < count && performance.now() < until) await rest(50)
    await rest(500)
    const peak = memoryOf(pids(), 'VmHWM')
    // Without a figure: it does not keep so many.
    if (resting === count)
      memory[kind] = { each: (peak - before) / count, before: before / 1024, peak: peak / 1024 }
    load.kill()
    end()
  }
  progress.clear()
  const heading = ['idle connections', 'KiB a connection', 'MiB warm', `MiB at ${count}`]
  const rows = Object.entries(memory).map(([kind, { each, before, peak }]) => [
    kind,
    shown(each, 2),
    shown(before, 0),
    shown(peak, 0),
  ])
  console.log(`${table([heading, ...rows]).join('\n')}\n`)
  const [ours, theirs, same] = [memory[OURS], memory[UNDICI], memory[tuned]]
  if (!ours || !theirs || !same) return
  figures.add(
    `peak memory with ${count} idle connections, of node:http's`,
    ours.peak / theirs.peak,
    '',
    '<=',
    0.7,
  )
  figures.info('the same where node:http is told to keep small semi-spaces too', ours.peak / same.peak, '')
  figures.add('growth only, without what serving takes at all', ours.each, 'KiB a connection', '<=', 1)
}

async function inWindows() {
  const ours = await windowsOf(CLI)
  if (flags.release === undefined) return
  const into = join(folder, flags.release)
  mkdirSync(into)
  const before = await windowsOf(releaseCommand(flags.release, into), `${flags.release}: `)
  figures.add(`p99 in the window, of that of ${flags.release}`, ours / before, 'x', '<=', MOST_OF_RELEASE)
}

/** @param {string} cli @param {string} [of] what its figures are called @returns {Promise<number>} p99 in the windows, in milliseconds */
async function windowsOf(cli, of = '') {
  progress.show([], `${of}upgrades under load`)
  const { upgrades, rate } = { upgrades: Number(flags.upgrades), rate: Number(flags.rate) }
  const seen = await windows({ bare, folder, cli, upgrades, rate, everyMs: 3000, routes: 1000 })
  progress.clear()
  if (seen.why !== '') console.log(`${of}the first that was lost: ${seen.why}`)
  figures.add(`${of}upgrades`, seen.done, '', '=', upgrades)
  figures.add(`${of}requests lost`, seen.lost, '', '=', 0)
  figures.add(`${of}load`, seen.perSecond, 'requests/s', '>=', 0.9 * rate)
  figures.info(`${of}CPU a request, of the proxy, between upgrades`, seen.proxyUs, 'µs')
  figures.info(`${of}the same, of the load and the servers`, seen.othersUs, 'µs')
  figures.info(`${of}the load's own lag, at most`, seen.lagMs, 'ms')
  const [inside, outside] = [median(seen.inside), median(seen.outside)]
  figures.add(`${of}p99 in the window of an upgrade`, inside, 'ms', '<=', p99Beside(outside))
  figures.info(`${of}p99 between two`, outside, 'ms')
  figures.info(`${of}the first, of the second`, inside / outside, 'x')
  figures.info(`${of}p99 in the worst of the windows`, Math.max(...seen.inside), 'ms')
  return inside
}

async function inReloads() {
  progress.show([], 'reloads under load')
  const [rate, routes] = [Number(flags.rate), Number(flags.routes)]
  const seen = await reloads({ bare, folder, reloads: rounds, rate, everyMs: 3000, routes })
  progress.clear()
  if (seen.why !== '') console.log(`the first that was lost: ${seen.why}`)
  figures.add('requests lost in reloads', seen.lost, '', '=', 0)
  figures.add('requests in them', seen.count, '', '>', 0)
  figures.info(`a reload of ${flags.routes} routes under load`, median(seen.ms), 'ms')
  figures.info("the load's own lag, at most", seen.lagMs, 'ms')
  figures.add('p99 while it goes on', seen.inside, 'ms', '<=', p99Beside(seen.outside))
  figures.info('p99 between them', seen.outside, 'ms')
}

const PARTS = { requests, http2, metrics, tunnels, idle, windows: inWindows, reloads: inReloads }
try {
  for (const [name, run] of Object.entries(PARTS)) if (parts.has(name)) await run()
} finally {
  for (const end of ends.splice(0)) end()
  rmSync(folder, { recursive: true, force: true })
}
for (const { name, version, install } of OTHERS)
  console.log(version ?? `${name} is not installed: ${install}`)
figures.finish(flags.json)
