// @ts-check
// npm run demo: the main job, seen. The example app serves 10,000 routes under an open-loop load and is replaced five times
// by a process that somebody else started. `-- --naive` stops and starts it instead: that must show losses, or the
// referee is blind. Exit code 1 when a request was lost.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { LOSSES } from './load/kinds.mjs'
import { spawnLoad } from './load/remote.mjs'
import { Figures, Progress, table } from './report.mjs'
import { phasesOf, status } from './status.mjs'
import { hasEnded, signal, startUnrelated, untilEnded } from './unrelated.mjs'

/** @typedef {import('./load/tally.mjs').TallyReport} TallyReport */
/** @typedef {{ name: string, pid: number, ms: number | null, phases: string }} Upgrade */

const { values: flags } = parseArgs({
  options: {
    naive: { type: 'boolean', default: false },
    upgrades: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1200' },
    routes: { type: 'string', default: '10000' },
    every: { type: 'string', default: '5' },
    app: { type: 'string', default: fileURLToPath(new URL('../examples/shop/server.mjs', import.meta.url)) },
    json: { type: 'string' },
  },
})
const START_MS = 10_000
const upgradeCount = Number(flags.upgrades)
const everyMs = Number(flags.every) * 1000

const folder = mkdtempSync(join(tmpdir(), 'fd-broker-demo-'))
const control = join(folder, 'upgrade.sock')
const log = join(folder, 'app.log')
const port = await freePort()
const target = `http://127.0.0.1:${port}`
const progress = new Progress()
/** @type {number[]} */
const started = []
/** @type {Upgrade[]} */
const upgrades = []
/** @type {TallyReport[]} */
const finished = []

const load = await prepare()
try {
  for (let number = 1; number <= upgradeCount; number++) {
    await watch(number === 1 ? 2000 : everyMs)
    finished.push(await load.mark(`upgrade ${number}`))
    await replace(`upgrade ${number}`)
  }
  await watch(everyMs)
  const report = await load.stop()
  progress.clear()
  print(report)
} finally {
  load.kill()
  await end()
}

/** The first generation, and the load on it. */
async function prepare() {
  try {
    upgrades.push({ name: 'start', pid: await start(), ms: null, phases: '' })
    if (!(await waitFor(answers, START_MS))) throw new Error('the app does not answer')
  } catch (error) {
    await end()
    console.error(
      `${readFileSync(log, 'utf8')}\nThe app did not start within ${START_MS} ms; its output is above.`,
    )
    throw error
  }
  return spawnLoad({ target, rate: Number(flags.rate), routes: Number(flags.routes), every: 50 })
}

async function start() {
  const args = [flags.app, '--listen', `tcp://127.0.0.1:${port}`, '--routes', flags.routes]
  const pid = await startUnrelated(log, process.execPath, [
    ...args,
    '--control',
    flags.naive ? 'none' : control,
  ])
  started.push(pid)
  return pid
}

/** One upgrade: done when the new process has answered a client. @param {string} name */
async function replace(name) {
  const begun = performance.now()
  const old = started.at(-1) ?? 0
  if (flags.naive) {
    signal(old, 'SIGTERM')
    if (!(await untilEnded(old, 3000))) signal(old, 'SIGKILL')
  }
  const pid = await start()
  const served = await waitFor(() => generations().some(id => id.endsWith(`/${pid}`)), START_MS)
  const ms = served ? performance.now() - begun : null
  const phases = flags.naive ? 'stop, start' : phasesOf(await status(control))
  upgrades.push({ name, pid, ms, phases })
  progress.say(
    `${name}: pid ${old} -> ${pid}, ${ms === null ? 'NOT DONE' : `first answer after ${ms.toFixed(0)} ms`}`,
  )
}

function generations() {
  return Object.keys(load.snapshot()?.phase.generations ?? {})
}

/** Shows progress for a while. @param {number} ms */
async function watch(ms) {
  const until = performance.now() + ms
  while (performance.now() < until) {
    await new Promise(resolve => setTimeout(resolve, 200))
    const now = load.snapshot()
    if (!now) continue
    const current = { ...now.phase, name: `${now.phase.name} ...` }
    progress.show(
      rows([...finished, current]),
      `${now.seconds.toFixed(0)} s: ${now.phase.name}, ${now.perSecond.toFixed(0)} requests/s, ${now.lost} lost, worst gap ${now.phase.worstGapMs} ms`,
    )
  }
}

/** @param {TallyReport[]} phases */
function rows(phases) {
  const heading = [
    '',
    'pid',
    'took ms',
    'req/s',
    'p99 ms',
    'max ms',
    'gap ms',
    ...LOSSES,
    'idle closed',
    'late',
  ]
  const lines = phases.map((phase, at) => [
    phase.name,
    upgrades[at]?.pid ?? '',
    upgrades[at]?.ms?.toFixed(0) ?? '',
    phase.perSecond.toFixed(0),
    phase.latencyMs.p99.toFixed(1),
    phase.latencyMs.max.toFixed(0),
    phase.worstGapMs.toFixed(0),
    ...LOSSES.map(kind => phase.counts[kind]),
    phase.counts.closedIdle,
    phase.counts.late,
  ])
  return table([heading, ...lines])
}

/** @param {import('./load/load.mjs').LoadReport} report */
function print({ total, phases, incidents, ownLagMs }) {
  console.log(
    `\n${flags.naive ? 'stop and start' : 'upgrade by an unrelated process'}, ${flags.routes} routes\n`,
  )
  console.log(rows(phases).join('\n'))
  if (!flags.naive) {
    console.log('\nphases (ms):')
    for (const { name, phases: times } of upgrades.slice(1))
      console.log(`  ${name}: ${times || 'status gave none'}`)
  }
  if (incidents.length > 0) {
    console.log('\nthe first incidents:')
    for (const { atMs, phase, kind, what, reason } of incidents.slice(0, 8)) {
      console.log(`  ${(atMs / 1000).toFixed(2)} s, ${phase}: ${kind}: ${what}: ${reason}`)
    }
  }
  const figures = new Figures(flags.naive ? 'demo --naive' : 'demo')
  figures.add('upgrades', upgrades.filter(({ ms }) => ms !== null).length, '', '=', upgradeCount)
  for (const kind of LOSSES) figures.add(kind, total.counts[kind], 'requests', '=', 0)
  figures.add('rate', total.perSecond, 'requests/s', '>=', 1000)
  figures.add('closed while idle', total.counts.closedIdle, 'connections')
  figures.add('late', total.counts.late, 'requests')
  figures.add('writes retried', total.counts.retried, 'requests')
  figures.add('worst gap', total.worstGapMs, 'ms')
  figures.add('latency p99', total.latencyMs.p99, 'ms')
  figures.add('latency max', total.latencyMs.max, 'ms')
  figures.add("the referee's own lag, at most", ownLagMs, 'ms')
  figures.finish(flags.json)
}

/** Nothing of this run stays: every process that it started ends, by its pid. */
async function end() {
  const left = started.filter(pid => !hasEnded(pid))
  for (const pid of left) signal(pid, 'SIGTERM')
  for (const pid of left) if (!(await untilEnded(pid, 5000))) signal(pid, 'SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}

async function answers() {
  try {
    const response = await fetch(`${target}/whoami`, { signal: AbortSignal.timeout(1000) })
    await response.text()
    return response.ok
  } catch {
    return false
  }
}

/**
 * @param {() => boolean | Promise<boolean>} condition
 * @param {number} timeoutMs
 */
async function waitFor(condition, timeoutMs) {
  const give = performance.now() + timeoutMs
  while (performance.now() < give) {
    if (await condition()) return true
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return false
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.on('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address()
      probe.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}
