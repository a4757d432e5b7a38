// @ts-check
// npm run bench -- relay: CPU and requests a second of the bare relay beside node:http with undici, in turns in one run;
// and the memory of idle connections. About 20 s. Options: --rounds 3 --seconds 2 --idle 5000 --json FILE
import { fork } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    idle: { type: 'string', default: '5000' },
    json: { type: 'string' },
  },
})
const KINDS = ['relay', 'undici']
const CONNECTIONS = 32
/** The unit of /proc/PID/stat: 100 ticks a second on every Linux that Node runs on. */
const MICROSECONDS_PER_TICK = 10_000
const progress = new Progress()

/** @typedef {import('node:child_process').ChildProcess} Child */

/** @param {string} file @param {(string | number)[]} args */
const start = (file, ...args) =>
  fork(fileURLToPath(new URL(file, import.meta.url)), args.map(String), {
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

/** @param {Child} child CPU time so far, in microseconds. */
function cpu(child) {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK
}

/** @param {Child} child in KiB */
const resident = child =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1] ?? Number.NaN)

const upstream = start('./upstream.mjs')
const { port: upstreamPort } = await message(upstream)

/** @param {string} kind */
async function measure(kind) {
  const proxy = start(`./${kind}-proxy.mjs`, upstreamPort)
  const { port } = await message(proxy)
  const load = start('./load.mjs', port, CONNECTIONS)
  await rest(1000)
  const [before, cpuBefore, began] = [await ask(load), cpu(proxy), performance.now()]
  await rest(Number(flags.seconds) * 1000)
  const [after, used, ms] = [await ask(load), cpu(proxy) - cpuBefore, performance.now() - began]
  load.kill()
  proxy.kill()
  const answers = after.answers - before.answers
  return { cost: used / answers, rate: (answers / ms) * 1000, busy: used / 1000 / ms }
}

/** @param {string} kind KiB for each of many keep-alive connections at rest. */
async function idle(kind) {
  const proxy = start(`./${kind}-proxy.mjs`, upstreamPort)
  const { port } = await message(proxy)
  const count = Number(flags.idle)
  const before = resident(proxy)
  const load = start('./load.mjs', port, 0, count)
  while ((await ask(load)).resting < count) await rest(50)
  await rest(300)
  const after = resident(proxy)
  load.kill()
  proxy.kill()
  return (after - before) / count
}

/** @type {Record<string, { cost: number, rate: number, busy: number }[]>} */
const runs = { relay: [], undici: [] }
for (let round = 0; round < Number(flags.rounds); round++) {
  for (const kind of KINDS) {
    progress.show([], `round ${round + 1}: ${kind}`)
    runs[kind]?.push(await measure(kind))
  }
}
progress.show([], 'memory of idle connections')
const memory = { relay: await idle('relay'), undici: await idle('undici') }
upstream.kill()
progress.clear()

/** @param {'relay' | 'undici'} kind @param {'cost' | 'rate' | 'busy'} what */
const of = (kind, what) => median((runs[kind] ?? []).map(run => run[what]))
/** @param {'relay' | 'undici'} kind @param {string} name */
const row = (kind, name) => [
  name,
  of(kind, 'cost').toFixed(1),
  of(kind, 'rate').toFixed(0),
  `${(of(kind, 'busy') * 100).toFixed(0)} %`,
  memory[kind].toFixed(1),
]
console.log(
  table([
    ['proxy', 'CPU µs a request', 'requests/s', 'core busy', `KiB an idle connection (of ${flags.idle})`],
    row('relay', 'relay'),
    row('undici', 'node:http + undici'),
  ]).join('\n'),
)
const figures = new Figures('relay')
figures.add(
  'CPU a request, of node:http + undici',
  of('relay', 'cost') / of('undici', 'cost'),
  '',
  '<=',
  0.75,
)
figures.add('memory of idle connections, of node:http', memory.relay / memory.undici, '', '<=', 0.7)
figures.finish(flags.json)
