// @ts-check
// npm run soak -- daemon-chaos: a member of a daemon is upgraded and rolled back under a load of reads and changes (--rate 180 a second, for
// --seconds 60), while the daemon is killed, started again and upgraded, also amid these orders. No living version of the member is harmed, so no
// connection may be refused, reset or left without an answer, no acknowledged change be lost, and no increment made twice. A change may be refused
// with an error that says to try again. Afterwards the member and the daemon are upgraded once more, and stopped: nothing may be left.
// --seed is printed; the same seed has the same orders at the same times.
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { OperatorClient } from 'fd-broker/operator'
import { freePort } from '../free-port.mjs'
import { plainEnv } from '../plain-env.mjs'
import { Figures, Progress } from '../report.mjs'
import { hasEnded, signal, startUnrelated } from '../unrelated.mjs'
import { until } from '../until.mjs'
import { Clients, Round } from './chaos/clients.mjs'
import { Machine } from './chaos/machine.mjs'
import { randomFrom } from './chaos/random.mjs'

const { values: flags } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    rate: { type: 'string', default: '180' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    json: { type: 'string' },
  },
})
/** A process starts, and an order is carried out, within this time on a busy machine. */
const PATIENCE_MS = 60_000
const SHOP = 'chaos'
const DAEMON = 'fd-broker.daemon'
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const APP = fileURLToPath(new URL('chaos/app.mjs', import.meta.url))

const folder = mkdtempSync(join(tmpdir(), 'fdb-daemon-chaos-'))
const control = join(folder, 'daemon.sock')
const log = join(folder, 'log')
const between = randomFrom(Number(flags.seed))
const progress = new Progress()
const pause = (/** @type {number} */ ms) => new Promise(resolve => setTimeout(resolve, ms))

/** The processes of this run: their arguments name its folder. @returns {number[]} */
function living() {
  const isOurs = (/** @type {string} */ pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(folder) && !hasEnded(Number(pid))
    } catch {
      return false
    }
  }
  return readdirSync('/proc').filter(isOurs).map(Number)
}

/** The answer of the daemon; null: none serves. @returns {Promise<any>} */
async function status() {
  try {
    const client = await OperatorClient.connect(control)
    try {
      return await client.status()
    } finally {
      client.close()
    }
  } catch {
    return null
  }
}

/** A command of an operator. Resolves with its exit code and the code of its error. @param {string[]} args */
function order(...args) {
  const argv = [CLI, ...args, '--control', control]
  return new Promise(resolve =>
    execFile(process.execPath, argv, { env: plainEnv(), timeout: PATIENCE_MS }, (error, _, stderr) =>
      resolve(error === null ? 'done' : (/ERR_FDB_\w+/.exec(stderr)?.[0] ?? `exit ${error.code}`)),
    ),
  )
}

async function startDaemon() {
  await startUnrelated(log, process.execPath, [CLI, 'serve', '--control', control, '--log-level', 'warn'])
  await until('a daemon answers', PATIENCE_MS, async () => (await status()) !== null)
}

/** @param {number} port */
async function startMember(port) {
  const options = {
    control,
    hosting: 'daemon',
    port,
    stateFile: join(folder, 'state'),
    upgrade: { probation: 2_000 },
    itself: null,
    throwsBefore: false,
  }
  await startUnrelated(log, process.execPath, [APP, JSON.stringify(options)])
  await until('the member serves', PATIENCE_MS, async () => {
    const answer = await status()
    return answer?.services?.some((/** @type {any} */ one) => one.service === SHOP && one.role === 'serving')
  })
}

let kills = 0
/** Kills the daemon, and starts another one after a while. @param {number} pid @param {number} afterMs */
async function killDaemon(pid, afterMs) {
  if (!hasEnded(pid)) {
    kills++
    signal(pid, 'SIGKILL')
  }
  await pause(afterMs)
  await startDaemon()
}

/** Waits until a version is ready or begins to serve, at most 5 s: a daemon that is killed then leaves the commit undecided. */
async function soonAfterCommit() {
  const before = readFileSync(log, 'latin1').length
  for (const end = performance.now() + 5_000; performance.now() < end; await pause(1))
    if (/member phase (?:ready|beginning)/.test(readFileSync(log, 'latin1').slice(before))) return
}

/** The outcomes of each order. @type {Map<string, number>} */
const outcomes = new Map()
/** @param {string} what @param {string} outcome */
function count(what, outcome) {
  const key = `${what}: ${outcome}`
  outcomes.set(key, (outcomes.get(key) ?? 0) + 1)
}

/** One of the troubles. */
async function trouble() {
  const dice = between(1, 10)
  const daemon = (await status())?.pid ?? 0
  if (dice <= 3) {
    await killDaemon(daemon, between(0, 600))
    return
  }
  if (dice <= 8) {
    const [what, service] = dice <= 6 ? ['upgrade', SHOP] : ['upgrade of the daemon', DAEMON]
    const ordered = order('upgrade', '--service', service ?? '')
    const amid = between(1, 10)
    if (amid <= 8) {
      if (amid <= 4 && service === SHOP) await soonAfterCommit()
      else await pause(between(200, 1_000))
      await pause(between(0, 20))
      await killDaemon(daemon, between(0, 300))
    }
    count(what ?? '', await ordered)
    return
  }
  count('rollback', await order('rollback', '--service', SHOP))
}

/** The keys and counts that the member has, asked for as a client. @param {number} port @returns {Promise<{ keys: string[], counts: Record<string, number> }>} */
async function dump(port) {
  const response = await fetch(`http://127.0.0.1:${port}/dump`, { headers: { connection: 'close' } })
  return /** @type {any} */ (await response.json())
}

async function main() {
  const figures = new Figures('daemon-chaos')
  progress.say(`seed ${flags.seed}`)
  const port = await freePort()
  await startDaemon()
  await startMember(port)
  const clients = new Clients(port, Number(flags.rate))
  const machine = new Machine(() => [])
  const round = new Round(1)
  let troubles = 0
  try {
    clients.begin(round)
    for (const end = performance.now() + Number(flags.seconds) * 1_000; performance.now() < end; troubles++) {
      await pause(between(200, 1_700))
      await trouble()
      const line = `${troubles} troubles, the daemon killed ${kills} times, ${round.asked} requests, ${round.failures.length} failed`
      progress.show([line], line)
    }
    await clients.pause()
    progress.clear()
    const answered = round.failures.filter(({ why }) => /^503 ERR_FDB_/.test(why))
    const bad = round.failures.filter(failure => !answered.includes(failure))
    for (const { kind, why, afterMs } of bad.slice(0, 20))
      progress.say(`${kind} of ${(afterMs / 1_000).toFixed(2)} s: ${why}`)
    for (const [what, times] of outcomes) figures.info(what, times, 'times')
    const { keys, counts } = await dump(port)
    const there = new Set(keys)
    const lost = [...round.memory, ...round.durable].filter(key => !there.has(key)).length
    const made = counts[round.counter] ?? 0
    figures.add('troubles', troubles, '', '>', 0)
    figures.info('daemons killed', kills, '')
    figures.info('requests', round.asked, '')
    figures.info('slowest', round.slowestMs, 'ms')
    figures.info('load generator late by up to', machine.take().lateMs, 'ms')
    figures.info('changes refused for a moment', answered.length, '')
    figures.add('acknowledged', round.memory.size + round.durable.size + round.counted, 'changes', '>', 0)
    figures.add('refused, reset, or without an answer', bad.length, 'requests', '=', 0)
    figures.add('acknowledged and lost', lost + Math.max(0, round.counted - made), 'changes', '=', 0)
    const twice = Math.max(0, made - round.counted - round.unknown.count)
    figures.add('made more than once', twice, 'increments', '=', 0)
    // In a probation an upgrade is refused: it ends by itself.
    await until(
      'a last upgrade',
      PATIENCE_MS,
      async () => (await order('upgrade', '--service', SHOP)) === 'done',
    )
    await until(
      'a last daemon',
      PATIENCE_MS,
      async () => (await order('upgrade', '--service', DAEMON)) === 'done',
    )
    figures.add('stops refused', (await order('stop', '--service', SHOP)) === 'done' ? 0 : 1, '', '=', 0)
    await order('stop', '--service', DAEMON, '--drop')
    await until('all processes have ended', PATIENCE_MS, async () => living().length === 0)
    figures.finish(flags.json)
  } finally {
    machine.end()
    clients.end()
  }
}

const end = () => {
  for (const pid of living()) signal(pid, 'SIGKILL')
}
process.once('SIGTERM', () => process.exit(1)).once('SIGINT', () => process.exit(1))
process.once('exit', end)
try {
  await main()
} catch (error) {
  process.exitCode = 1
  progress.say(`${error instanceof Error ? error.stack : error}`)
}
if (process.exitCode === 1) progress.say(`what the processes said: ${log}`)
else rmSync(folder, { recursive: true, force: true, maxRetries: 10 })
