// @ts-check
// npm run bench -- auto: what `node --import fd-broker/auto server.mjs` costs beside `node server.mjs`: from the start to the first answer, in turn,
// as the first version and as the next version of one that serves; and processor time a request of the process that serves, in turn,
// over kept connections and with a connection for each request.
// Options: --starts 30 --pairs 5 (of processes) --rounds 60 (of each pair) --requests 3000 (of a round) --only start,cpu --json FILE
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { freePort } from '../free-port.mjs'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { answers, cpuMs, ended, start } from '../start/processes.mjs'
import { closedLoad } from './closed-load.mjs'

const { values: flags } = parseArgs({
  options: {
    starts: { type: 'string', default: '30' },
    pairs: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '60' },
    requests: { type: 'string', default: '3000' },
    only: { type: 'string', default: 'start,cpu' },
    json: { type: 'string' },
  },
})
const only = flags.only.split(',')
const SERVER = fileURLToPath(new URL('server.mjs', import.meta.url))
const AUTO = ['--import', 'fd-broker/auto', SERVER]
const MOST_START_MS = 40
const MOST_CPU = 1.02
const CONNECTIONS = 16
/** In the first rounds code is compiled, and what a start left is collected. */
const WARM_UP = 10
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-auto-'))
const progress = new Progress()
const figures = new Figures('auto')
let services = 0

/** @param {import('node:child_process').ChildProcess} child */
async function end(child) {
  child.kill('SIGKILL')
  await ended(child)
}

/** A service of its own. */
async function place() {
  const port = await freePort()
  const env = { FD_BROKER_CONTROL: join(folder, `${++services}.sock`), FD_BROKER_PROBATION: '0' }
  return { port, env: { ...env, PORT: String(port) } }
}

/** @typedef {Awaited<ReturnType<typeof place>>} Place */

/** @param {string[]} args @param {Place} at */
async function answering(args, { port, env }) {
  const began = performance.now()
  const child = start(process.execPath, args, env)
  await answers(port, child)
  return { child, ms: performance.now() - began, cpu: cpuMs(child.pid ?? 0) }
}

/** Milliseconds until the first answer, of time and of processors. @param {string[]} args */
async function firstStart(args) {
  const started = await answering(args, await place())
  await end(started.child)
  return started
}

/** Times the start of a version that takes over from a serving one. */
async function nextStart() {
  const at = await place()
  const before = await answering(AUTO, at)
  while (!existsSync(at.env.FD_BROKER_CONTROL)) await new Promise(resolve => setTimeout(resolve, 2))
  const next = await answering(AUTO, at)
  await end(next.child)
  await end(before.child)
  return next
}

async function starts() {
  const rounds = Number(flags.starts)
  /** @type {Record<string, () => Promise<{ ms: number, cpu: number }>>} */
  const kinds = {
    'node server.mjs': () => firstStart([SERVER]),
    'auto, first version': () => firstStart(AUTO),
    'auto, next version': nextStart,
  }
  /** @type {Map<string, { ms: number, cpu: number }[]>} */
  const samples = new Map(Object.keys(kinds).map(name => [name, []]))
  for (const once of Object.values(kinds)) await once()
  for (let round = 1; round <= rounds; round++) {
    progress.show([`start ${round} of ${rounds}`], `start ${round} of ${rounds}`)
    for (const [name, once] of Object.entries(kinds)) samples.get(name)?.push(await once())
  }
  progress.clear()
  const of = (/** @type {string} */ name) => median((samples.get(name) ?? []).map(({ ms }) => ms))
  const base = of('node server.mjs')
  const rows = [...samples].map(([name, times]) => [
    name,
    of(name).toFixed(1),
    Math.min(...times.map(({ ms }) => ms)).toFixed(1),
    (of(name) - base).toFixed(1),
    (of(name) / base).toFixed(2),
    median(times.map(({ cpu }) => cpu)).toFixed(1),
  ])
  console.log(
    `\n${table([['to the first answer', 'ms', 'least', 'more', 'x', 'CPU ms'], ...rows]).join('\n')}`,
  )
  figures.add(
    'first version, to its first answer',
    of('auto, first version') - base,
    'ms more',
    '<=',
    MOST_START_MS,
  )
  figures.info('next version, to its first answer', of('auto, next version') - base, 'ms more')
}

/** Processor time a request in microseconds, of a plain server and of one under auto, in turn. @param {boolean} fresh */
async function cpuOf(fresh) {
  const [pairs, rounds] = [Number(flags.pairs), Number(flags.rounds)]
  const requests = Number(flags.requests) / (fresh ? 10 : 1)
  /** @type {number[]} */
  const ratios = []
  /** @type {number[][]} */
  const each = [[], []]
  for (let pair = 1; pair <= pairs; pair++) {
    const places = [await place(), await place()]
    const commands = pair % 2 === 0 ? [[SERVER], AUTO] : [AUTO, [SERVER]]
    const servers = await Promise.all(
      commands.map((args, n) => answering(args, /** @type {Place} */ (places[n]))),
    )
    /** @type {number[][]} */
    const spent = [[], []]
    for (let round = 1; round <= WARM_UP + rounds; round++) {
      progress.show(
        [`pair ${pair} of ${pairs}, round ${round} of ${WARM_UP + rounds}`],
        `pair ${pair}, round ${round}`,
      )
      for (const n of round % 2 === 0 ? [0, 1] : [1, 0]) {
        const pid = servers[n]?.child.pid ?? 0
        const before = cpuMs(pid)
        await closedLoad(places[n]?.port ?? 0, { requests, connections: CONNECTIONS, fresh })
        if (round > WARM_UP) spent[n]?.push(((cpuMs(pid) - before) * 1000) / requests)
      }
    }
    for (const { child } of servers) await end(child)
    const [first = [], second = []] = spent
    const [plain, auto] = pair % 2 === 0 ? [median(first), median(second)] : [median(second), median(first)]
    each[0]?.push(plain)
    each[1]?.push(auto)
    ratios.push(auto / plain)
  }
  progress.clear()
  const how = fresh ? 'a connection each' : 'kept connections'
  const rows = ['node server.mjs', 'auto'].map((name, n) => [name, median(each[n] ?? []).toFixed(2)])
  console.log(`\n${table([[`CPU a request, ${how}`, 'us'], ...rows]).join('\n')}`)
  console.log(`ratios of the pairs: ${ratios.map(ratio => ratio.toFixed(3)).join(', ')}`)
  figures.add(`CPU a request, ${how}`, median(ratios), 'x', '<=', MOST_CPU)
}

try {
  if (only.includes('start')) await starts()
  if (only.includes('cpu')) {
    await cpuOf(false)
    await cpuOf(true)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
figures.finish(flags.json)
