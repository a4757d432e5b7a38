// @ts-check
// npm run soak -- generations: many upgrades in a row under a light load. The holdings of generation N must not grow with N:
// descriptors, memory, log bytes, segments, files; and no request is lost.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { App, until } from '../app.mjs'
import { spawnLoad } from '../referee/remote.mjs'
import { LOSSES } from '../referee/verdicts.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { status } from '../status.mjs'

const { values: flags } = parseArgs({
  options: {
    upgrades: { type: 'string', default: '100' },
    rate: { type: 'string', default: '300' },
    routes: { type: 'string', default: '10000' },
    every: { type: 'string', default: '1' },
    app: { type: 'string' },
    json: { type: 'string' },
  },
})
const upgrades = Number(flags.upgrades)
/** Probation and the longest patience with idle connections, and some. */
const DRAINED_MS = 90_000
/** State of a listening socket in /proc/net/tcp. */
const LISTEN = '0A'
/** The generation that the last one is compared with: start-up effects are over. */
const SETTLED = Math.min(10, Math.ceil(upgrades / 2))

/**
 * The holdings of one generation, once every one before it has gone.
 * @typedef {{ generation: number, descriptors: number, rssKiB: number, logBytes: number, segments: number, files: string[] }} Holding
 */

const progress = new Progress()
const app = await App.start({ file: flags.app, routes: Number(flags.routes), naive: false })
const load = spawnLoad({
  target: app.target,
  rate: Number(flags.rate),
  routes: Number(flags.routes),
  every: 50,
})
/** @type {Holding[]} */
const holdings = []
let done = 0
try {
  for (let number = 1; number <= upgrades; number++) {
    const name = `generation ${number + 1}`
    await load.mark(name)
    const ms = await app.replace(pid => generations().some(id => id.endsWith(`/${pid}`)))
    if (ms === null) throw new Error(`${name} never answered; the app says:\n${app.output.slice(-4000)}`)
    await new Promise(resolve => setTimeout(resolve, Number(flags.every) * 1000))
    done++
    const line = `${number} of ${upgrades} upgrades, ${load.snapshot()?.lost ?? 0} requests lost`
    progress.show([line], line)
    if (number === SETTLED || number === upgrades) {
      await alone()
      holdings.push(await look(number + 1))
    }
  }
  const report = await load.stop()
  progress.clear()
  print(report)
} finally {
  load.kill()
  await app.end()
}

/** Waits while several generations drain. The rest belongs to one generation. */
async function alone() {
  const gone = await until(async () => {
    const answer = await status(app.control)
    return answer?.phase === 'idle' && answer.draining?.length === 0
  }, DRAINED_MS)
  if (!gone) throw new Error(`older generations were still there ${DRAINED_MS} ms after the last upgrade`)
}

function generations() {
  return Object.keys(load.snapshot()?.phase.generations ?? {})
}

/** @param {number} generation @returns {Promise<Holding>} */
async function look(generation) {
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${app.pid}/status`, 'latin1'))
  const answer = await status(app.control)
  return {
    generation,
    // A connection that is accepted while we look would be counted: the least of three looks is right.
    descriptors: Math.min(...[1, 2, 3].map(() => ownDescriptors(app.pid))),
    rssKiB: Number(rss?.[1] ?? 0),
    logBytes: answer?.state?.bytes ?? Number.NaN,
    segments: answer?.state?.segments ?? Number.NaN,
    files: readdirSync(app.folder).sort(),
  }
}

/**
 * Descriptors that the server holds for itself: client connections come and go with the load.
 * @param {number} pid
 */
function ownDescriptors(pid) {
  const tcp = `${readFileSync('/proc/net/tcp', 'latin1')}${readFileSync('/proc/net/tcp6', 'latin1')}`
  const connected = new Set()
  for (const line of tcp.split('\n')) {
    const [, , , state, , , , , , inode] = line.trim().split(/\s+/)
    if (inode && state !== LISTEN) connected.add(inode)
  }
  return readdirSync(`/proc/${pid}/fd`).filter(fd => {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1]
      return inode === undefined || !connected.has(inode)
    } catch {
      return false
    }
  }).length
}

/** @param {import('../referee/load.mjs').LoadReport} report */
function print({ total }) {
  const [settled, last] = [holdings[0], holdings.at(-1)]
  if (!settled || !last) throw new Error(`--upgrades ${flags.upgrades}: at least 1 is needed`)
  const heading = ['generation', 'descriptors', 'RSS KiB', 'log bytes', 'segments', 'files']
  const rows = holdings.map(({ generation, descriptors, rssKiB, logBytes, segments, files }) => [
    generation,
    descriptors,
    rssKiB,
    logBytes,
    segments,
    files.join(' '),
  ])
  console.log(table([heading, ...rows]).join('\n'))
  const figures = new Figures('soak')
  figures.add('upgrades', done, '', '=', upgrades)
  for (const kind of LOSSES) figures.add(kind, total.counts[kind], 'requests', '=', 0)
  figures.add('descriptors, last against settled', last.descriptors - settled.descriptors, 'more', '=', 0)
  figures.add('RSS, last against settled', last.rssKiB / settled.rssKiB, '', '<=', 1.05)
  figures.add('log bytes, last against settled', last.logBytes / settled.logBytes, '', '<=', 1.05)
  figures.add('segments, last against settled', last.segments / settled.segments, '', '<=', 1.05)
  const stale = last.files.filter(file => !settled.files.includes(file)).length
  figures.add('stale files', stale, '', '=', 0)
  figures.finish(flags.json)
}
