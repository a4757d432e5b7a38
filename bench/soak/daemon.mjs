// @ts-check
// npm run soak -- daemon: the daemon of a service is upgraded 50 times and killed 20 times, and the only member of that service killed 50 times, while
// clients ask 2,000 times a second and change the state, and a service of which no member lives waits in it. No connect may be refused, no request be lost but
// those inside of a killed member, no connect to the control path be refused while the daemon is upgraded, and all that it held be there at the end.
// With --upgrades, --kills, --members (kills of members), --rate.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { freePort } from '../free-port.mjs'
import { spawnLoad } from '../referee/remote.mjs'
import { LOSSES } from '../referee/verdicts.mjs'
import { Figures, Progress } from '../report.mjs'
import { status } from '../status.mjs'
import { hasEnded, signal, startUnrelated, untilEnded } from '../unrelated.mjs'
import { until } from '../until.mjs'

const { values: flags } = parseArgs({
  options: {
    upgrades: { type: 'string', default: '50' },
    kills: { type: 'string', default: '20' },
    members: { type: 'string', default: '50' },
    rate: { type: 'string', default: '2000' },
    json: { type: 'string' },
  },
})
const upgrades = Number(flags.upgrades)
const kills = Number(flags.kills)
const memberKills = Number(flags.members)
const rate = Number(flags.rate)
/** Members are back at the next daemon after this, on a machine that is busy with the load too. */
const BACK_MS = 5_000
/** The losses of requests inside a killed process. */
/** @type {readonly typeof LOSSES[number][]} */
const CUT = ['reset', 'truncated', 'raced']
const root = fileURLToPath(new URL('../../', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fdb-soak-'))
const control = join(folder, 'daemon.sock')
const log = join(folder, 'log')
/** @type {number[]} */
const pids = []
/** Processes that said by the control path that they are the daemon. @type {Set<number>} */
const daemons = new Set()

/** @param {string} service @param {number} port */
async function member(service, port) {
  const app = {
    service,
    control,
    hosting: 'daemon',
    routes: 1_000,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}?backlog=4096` }],
    commands: join(folder, `${service}.sock`),
    folder,
  }
  const env = { FDB_APP: JSON.stringify(app) }
  const pid = await startUnrelated(log, process.execPath, [join(root, 'test/fixtures/app.mjs')], env)
  pids.push(pid)
  await serves(service, pid)
  return pid
}

async function daemon() {
  const args = [join(root, 'dist/cli.cjs'), 'serve', '--control', control, '--log-level', 'warn']
  const pid = await startUnrelated(log, process.execPath, args)
  pids.push(pid)
  await until(`process ${pid} is the daemon`, 20_000, async () => {
    const answered = (await status(control))?.pid
    if (answered !== undefined) daemons.add(answered)
    return answered === pid
  })
  return pid
}

/** @param {string} service */
async function known(service) {
  const answer = await status(control)
  return answer?.services?.find((/** @type {{ service: string }} */ one) => one.service === service)
}

/** @param {string} service @param {number} pid */
function serves(service, pid) {
  return until(`${service} is served by process ${pid}`, 20_000, async () => {
    const now = await known(service)
    return now?.pid === pid && now.phase === 'idle' && now.role === 'serving'
  })
}

/** Returns everything that an upgrade of the daemon must not change: the sockets of a living member, all of a service without one. */
async function held() {
  const services = [await known('shop'), await known('mail')]
  return JSON.stringify(
    services.map(one => ({
      sockets: one?.listeners?.map((/** @type {Record<string, unknown>} */ { name, address, inode }) => [
        name,
        address,
        inode,
      ]),
      generation: one?.generation,
      ...(one?.pid === null && { segments: one.segments, logBytes: one.logBytes }),
    })),
  )
}

/** Connects to the control path fail so often. */
let refused = 0
let knocks = 0
let knocking = true
let killed = false
async function knock() {
  while (knocking) {
    await new Promise(resolve => {
      const socket = connect(control, () => resolve(socket.destroy()))
      knocks++
      socket.on('error', error => {
        const { code } = /** @type {NodeJS.ErrnoException} */ (error)
        if (!killed && code !== 'EAGAIN') refused++
        resolve(null)
      })
    })
    await pause(2)
  }
}

const progress = new Progress()
try {
  const [shopPort, mailPort] = [await freePort(), await freePort()]
  let now = await daemon()
  let shop = await member('shop', shopPort)
  const mail = await member('mail', mailPort)
  signal(mail, 'SIGKILL')
  await until('nobody serves mail', 20_000, async () => (await known('mail'))?.pid === null)
  const knocked = knock()
  const load = spawnLoad({
    target: `http://127.0.0.1:${shopPort}`,
    rate,
    routes: 1_000,
    writes: 20,
    every: 250,
    deadlineMs: 10_000,
  })
  /** @type {number[]} */
  const took = []
  let different = 0
  try {
    await until('the load is answered', 20_000, () => (load.snapshot()?.answered ?? 0) > 100)
    const all = upgrades + kills
    for (let event = 0, done = 0; event < all; event++) {
      const kill = done < Math.floor(((event + 1) * kills) / all)
      const last = now
      const before = await held()
      const begun = performance.now()
      if (kill) {
        done++
        // The daemon's own holdings end with it: here only the service manager could keep them.
        killed = true
        signal(last, 'SIGKILL')
        await untilEnded(last, 5_000)
      }
      now = await daemon()
      killed = false
      await serves('shop', shop)
      if (!kill) {
        took.push(performance.now() - begun)
        if ((await held()) !== before) different++
        if (!(await untilEnded(last, 20_000))) throw new Error(`the daemon ${last} has not ended`)
      } else {
        const again = await member('mail', mailPort)
        signal(again, 'SIGKILL')
        await until('nobody serves mail', 20_000, async () => (await known('mail'))?.pid === null)
      }
      await pause(100)
      const line = `${event + 1} of ${all}: ${load.snapshot()?.answered ?? 0} requests answered, ${load.snapshot()?.lost ?? 0} lost, ${refused} of ${knocks} connects to the control path refused`
      progress.show([line], line)
    }
    for (let kill = 1; kill <= memberKills; kill++) {
      const before = (await known('shop')).generation
      await load.mark('killed')
      signal(shop, 'SIGKILL')
      await untilEnded(shop, 5_000)
      shop = await member('shop', shopPort)
      if ((await known('shop')).generation !== before + 1) different++
      const answered = load.snapshot()?.answered ?? 0
      await until(
        'clients are answered',
        20_000,
        () => (load.snapshot()?.answered ?? 0) > answered + rate / 4,
      )
      // Clients that wait meanwhile must be served: otherwise more wait after each kill, until they wait too long.
      await until('nobody waits any more', 20_000, () => waiting(load.snapshot()) < rate / 10)
      await load.mark('calm')
      const line = `${kill} of ${memberKills} members killed: ${load.snapshot()?.lost ?? 0} requests lost`
      progress.show([line], line)
    }
    const { total, phases, incidents } = await load.stop()
    knocking = false
    await knocked
    progress.clear()
    for (const incident of incidents.slice(0, 5)) process.stderr.write(`${JSON.stringify(incident)}\n`)
    const figures = new Figures('daemon')
    figures.add('requests answered', total.answered, '', '>=', rate)
    const inKilled = (/** @type {typeof LOSSES[number]} */ kind) =>
      phases.reduce((sum, { name, counts }) => sum + (name === 'killed' ? counts[kind] : 0), 0)
    for (const kind of LOSSES)
      figures.add(kind, total.counts[kind] - (CUT.includes(kind) ? inKilled(kind) : 0), 'requests', '=', 0)
    figures.add('daemons that answered at the control path', daemons.size, '', '=', 1 + upgrades + kills)
    figures.add(
      'members that clients had answers of',
      Object.keys(total.generations).length,
      '',
      '=',
      1 + memberKills,
    )
    const cut = CUT.reduce((sum, kind) => sum + inKilled(kind), 0)
    figures.info('requests inside of them', cut / Math.max(1, memberKills), 'each')
    figures.add('connects to the control path', knocks, '', '>', 0)
    figures.add('of them refused in an upgrade', refused, '', '=', 0)
    took.sort((a, b) => a - b)
    figures.info(
      'start of the next daemon until the members are back, median',
      took[took.length >> 1] ?? 0,
      'ms',
    )
    if (upgrades > 0) figures.add('the longest', took.at(-1) ?? Number.NaN, 'ms', '<=', BACK_MS)
    figures.add('upgrades after which something held was another', different, '', '=', 0)
    const again = await member('mail', mailPort)
    const { generation, sections } = await known('mail')
    const { sections: others } = await known('shop')
    figures.add('generation of the service that no member had', generation, '', '>=', 2)
    const entries = (/** @type {{ entries: number }[]} */ all) =>
      all.reduce((sum, one) => sum + one.entries, 0)
    figures.add('entries of its state', entries(sections), '', '=', 1_000)
    figures.add('entries of the service under load', entries(others), '', '>=', 1_000)
    signal(again, 'SIGTERM')
    figures.finish(flags.json)
  } finally {
    load.kill()
  }
} catch (error) {
  process.stderr.write(readFileSync(log, 'utf8').slice(-4000))
  throw error
} finally {
  knocking = false
  for (const pid of pids.reverse()) if (!hasEnded(pid)) signal(pid, 'SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}

/** Requests that were sent and have no answer yet. @param {ReturnType<ReturnType<typeof spawnLoad>['snapshot']>} snapshot */
function waiting(snapshot) {
  return snapshot === null ? Number.POSITIVE_INFINITY : snapshot.sent - snapshot.answered - snapshot.lost
}

/** @param {number} ms */
function pause(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}
