// @ts-check
// npm run bench -- proxy: CPU time a request (from /proc) of the reference proxy with 10 and with 100,000 routes, beside nginx
// and beside node:http with undici, in turns in one run; and the peak memory (VmHWM) of the whole process with idle connections.
// About 60 s.
// Options: --rounds 3 --seconds 2 --idle 10000 --routes 100000 --json FILE
import { execFileSync, fork, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Figures, Progress, table } from '../report.mjs'
import { HOW_TO_INSTALL, nginxVersion, startNginx } from './nginx.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    idle: { type: 'string', default: '10000' },
    routes: { type: 'string', default: '100000' },
    json: { type: 'string' },
  },
})
const FEW = 10
const MANY = Number(flags.routes)
const CONNECTIONS = 32
/** Of /proc/PID/stat: 100 ticks a second on every Linux that Node runs on. */
const MICROSECONDS_PER_TICK = 10_000
/** Requests a second are told only where the proxy's core was the limit. */
const BUSY = 0.95
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const progress = new Progress()
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))

/**
 * @typedef {import('node:child_process').ChildProcess} Child
 * @typedef {{ port: number, pids: () => number[], end: () => void }} Running
 * @typedef {{ cost: number, rate: number, busy: number }} Run
 */

/** @param {string} file @param {(string | number)[]} args */
const start = (file, ...args) => startWith([], file, ...args)

/** @param {string[]} execArgv @param {string} file @param {(string | number)[]} args */
const startWith = (execArgv, file, ...args) =>
  fork(fileURLToPath(new URL(file, import.meta.url)), args.map(String), {
    execArgv,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })

/** @param {Child} child @returns {Promise<any>} */
const message = child => new Promise(resolve => child.once('message', resolve))

/** @param {Child} child */
function ask(child) {
  const answer = message(child)
  child.send('?')
  return answer
}

/** @param {number} ms */
const rest = ms => new Promise(resolve => setTimeout(resolve, ms))

/** CPU time so far, in microseconds. @param {number[]} pids */
const cpu = pids =>
  pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
    return sum + (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK
  }, 0)

/** In KiB. @param {number[]} pids @param {'VmRSS' | 'VmHWM'} what */
const memoryOf = (pids, what) =>
  pids.reduce((sum, pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return sum + Number(new RegExp(`${what}:\\s+(\\d+)`).exec(status)?.[1] ?? Number.NaN)
  }, 0)

/** @param {number[]} values */
const median = values => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

/** @returns {Promise<number>} */
const freePort = () =>
  new Promise(resolve => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })

/** @param {number} port */
async function answers(port) {
  for (const until = performance.now() + 15_000; performance.now() < until; await rest(20)) {
    try {
      const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
      await response.text()
      if (response.ok) return
    } catch {
      // Not yet.
    }
  }
  throw new Error(`nobody answers on port ${port}`)
}

const upstream = start('../relay/upstream.mjs')
const { port: upstreamPort } = await message(upstream)

/** The proxy as operators run it, its routes made at run time. @param {number} routes @returns {Promise<Running>} */
async function startProxy(routes) {
  const port = await freePort()
  const home = mkdtempSync(join(folder, 'proxy-'))
  const control = join(home, 'upgrade.sock')
  const config = {
    service: 'bench',
    control,
    instanceHeader: 'X-Gen',
    listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}?backlog=16384` }],
    upstreams: { app: { servers: [`http://127.0.0.1:${upstreamPort}`] } },
    routes: [{ host: '*', upstream: 'app' }],
  }
  const file = join(home, 'edge.json')
  writeFileSync(file, JSON.stringify(config))
  const child = spawn(process.execPath, [CLI, 'proxy', '--config', file, '--log-level', 'warn'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await answers(port)
  const more = join(home, 'routes.jsonl')
  // The load asks for example.com/some/path.
  const places = [{ host: 'example.com', path: '/some' }]
  for (let n = 2; n < routes; n++) places.push({ host: `h${n}.example.com`, path: `/p${n % 10}` })
  writeFileSync(more, places.map(place => `${JSON.stringify({ ...place, upstream: 'app' })}\n`).join(''))
  execFileSync(process.execPath, [CLI, 'routes', 'add', '--control', control, '--file', more])
  return { port, pids: () => [child.pid ?? 0], end: () => void child.kill('SIGKILL') }
}

/** @param {string[]} [execArgv] @returns {Promise<Running>} */
async function startUndici(execArgv = []) {
  const child = startWith(execArgv, '../relay/undici-proxy.mjs', upstreamPort)
  const { port } = await message(child)
  return { port, pids: () => [child.pid ?? 0], end: () => void child.kill('SIGKILL') }
}

/** @returns {Promise<Running>} */
async function runNginx() {
  const port = await freePort()
  const running = startNginx({ folder, port, upstreamPort })
  await answers(port)
  return { port, ...running }
}

const version = nginxVersion()
const few = `fd-broker proxy, ${FEW} routes`
const many = `fd-broker proxy, ${MANY} routes`
const plain = 'node:http + undici'
/** The proxy keeps V8's semi-spaces at the 4 MiB of its start: what node:http needs with the same. */
const tuned = `${plain}, semi-spaces of 4 MiB`
const TUNED = ['--max-semi-space-size=4']
/** @type {Record<string, () => Promise<Running>>} */
const kinds = {
  [few]: () => startProxy(FEW),
  [many]: () => startProxy(MANY),
  [plain]: () => startUndici(),
  ...(version === null ? {} : { nginx: runNginx }),
}

/** @param {Running} proxy @returns {Promise<Run>} */
async function measure(proxy) {
  const load = start('../relay/load.mjs', proxy.port, CONNECTIONS)
  await rest(1000)
  const pids = proxy.pids()
  const [before, cpuBefore, began] = [await ask(load), cpu(pids), performance.now()]
  await rest(Number(flags.seconds) * 1000)
  const [after, used, ms] = [await ask(load), cpu(pids) - cpuBefore, performance.now() - began]
  load.kill()
  const count = after.answers - before.answers
  return { cost: used / count, rate: (count / ms) * 1000, busy: used / 1000 / ms }
}

/** Of many keep-alive connections at rest after one request. @param {() => Promise<Running>} launch */
async function idle(launch) {
  const proxy = await launch()
  const count = Number(flags.idle)
  const before = memoryOf(proxy.pids(), 'VmRSS')
  const load = start('../relay/load.mjs', proxy.port, 0, count)
  while ((await ask(load)).resting < count) await rest(50)
  await rest(500)
  const peak = memoryOf(proxy.pids(), 'VmHWM')
  load.kill()
  proxy.end()
  return { each: (peak - before) / count, peak: peak / 1024, before: before / 1024 }
}

/** @type {Record<string, Run[]>} */
const runs = {}
/** @type {Record<string, { each: number, peak: number, before: number }>} */
const memory = {}
try {
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const [name, launch] of Object.entries(kinds)) {
      progress.show([], `round ${round + 1}: ${name}`)
      const proxy = await launch()
      runs[name] = [...(runs[name] ?? []), await measure(proxy)]
      proxy.end()
    }
  }
  for (const name of [few, plain, tuned]) {
    progress.show([], `idle connections: ${name}`)
    memory[name] = await idle(kinds[name] ?? (() => startUndici(TUNED)))
  }
} finally {
  upstream.kill()
  rmSync(folder, { recursive: true, force: true })
}
progress.clear()

/** @param {string} name @param {keyof Run} what */
const of = (name, what) => median((runs[name] ?? []).map(run => run[what]))
/** @param {number} value @param {number} digits */
const shown = (value, digits) => (Number.isNaN(value) ? '' : value.toFixed(digits))
const rows = [...Object.keys(kinds), tuned].map(name => {
  const busy = of(name, 'busy')
  const rate = busy >= BUSY ? of(name, 'rate').toFixed(0) : '-'
  const { each, before, peak } = memory[name] ?? {}
  return [
    name,
    shown(of(name, 'cost'), 1),
    Number.isNaN(busy) ? '' : `${(busy * 100).toFixed(0)} %`,
    rate,
    each?.toFixed(2) ?? '',
    before?.toFixed(0) ?? '',
    peak?.toFixed(0) ?? '',
  ]
})
const heading = ['proxy', 'CPU µs a request', 'core busy', 'requests/s', 'KiB an idle connection']
console.log(table([[...heading, 'MiB at first', `MiB at ${flags.idle}`], ...rows]).join('\n'))
console.log(version ?? `nginx is not installed, so its row is missing: ${HOW_TO_INSTALL}`)

const figures = new Figures('proxy')
for (const name of [few, many]) {
  const cost = of(name, 'cost')
  if (version !== null) figures.add(`CPU, ${name}, of nginx`, cost / of('nginx', 'cost'), '', '<=', 1.6)
  figures.add(`CPU, ${name}, of ${plain}`, cost / of(plain, 'cost'), '', '<=', 0.75)
}
const [ours, theirs] = [memory[few], memory[plain]]
if (ours && theirs) {
  figures.add(
    `peak memory with ${flags.idle} idle connections, of node:http's`,
    ours.peak / theirs.peak,
    '',
    '<=',
    0.7,
  )
  const same = memory[tuned]
  if (same)
    figures.add('the same where node:http is told to keep small semi-spaces too', ours.peak / same.peak, '')
  figures.add('growth only, without the rest of the process', ours.each / theirs.each, '')
}
figures.finish(flags.json)
