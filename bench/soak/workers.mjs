// @ts-check
// npm run soak -- workers: a proxy of two workers (and of four). How evenly they are given requests, at 50 and at as many as go (20,000) a second;
// 50 upgrades, with connections that live through all of them; 50 kills of workers under fresh connections, of which only what was inside
// a killed process may fail; and what two workers answer in the time of one, each with the same part of a processor (root, for a cgroup).
// With --only spread|upgrades|kills|throughput, --upgrades, --kills, --seconds, --rate, --connections, --scale.

import { execFile, fork, spawn } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { freePort } from '../free-port.mjs'
import { median } from '../median.mjs'
import { plainEnv } from '../plain-env.mjs'
import { CLI } from '../proxy/edge.mjs'
import { edgeConfig } from '../referee/edge.mjs'
import { spawnBackend, spawnClients, spawnPlain } from '../referee/remote.mjs'
import { Figures, Progress } from '../report.mjs'
import { status } from '../status.mjs'
import { signal } from '../unrelated.mjs'
import { until } from '../until.mjs'
import { limitProcessor } from './processor-share.mjs'

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    upgrades: { type: 'string', default: '50' },
    kills: { type: 'string', default: '50' },
    seconds: { type: 'string', default: '20' },
    rate: { type: 'string', default: '500' },
    connections: { type: 'string', default: '256' },
    scale: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
})
/** The share of a processor for each worker whose throughput is measured. */
const SHARE = 0.3
const REQUEST = 'GET /health HTTP/1.1\r\nHost: any.test\r\n'
/** The end of a killed process reaches its clients within this time, on a machine that is busy. */
const AFTER_KILL_MS = 500

async function main() {
  const seconds = Number(flags.seconds)
  const figures = new Figures('workers')
  const progress = new Progress()
  const folder = mkdtempSync(join(tmpdir(), 'fdb-soak-'))
  const [backend, plain] = await Promise.all([spawnBackend({ everyMs: 500 }), spawnPlain()])
  const wanted = (/** @type {string} */ name) => flags.only === undefined || flags.only === name
  const upstreams = { backend, plain }
  try {
    for (const count of [2, 4]) {
      if (!wanted('spread')) break
      const edge = await Edge.start(folder, count, upstreams)
      try {
        const slow = await edge.clients('fresh', 50, seconds)
        figures.add(
          `${count} workers, 50 requests a second, the most uneven of ${total(slow)}`,
          skew(slow, count),
          '%',
          '<=',
          10 + noise(total(slow), count),
        )
        const fast = await edge.clients('kept', Number(flags.connections), seconds)
        figures.add(
          `${count} workers, ${perSecond(fast)} requests a second over ${flags.connections} connections, the most uneven`,
          skew(fast, count),
          '%',
          '<=',
          10 + noise(Number(flags.connections), count),
        )
        for (const each of [slow, fast]) figures.add('failed', each.failures.length, 'requests', '=', 0)
      } finally {
        await edge.end()
      }
    }
    if (wanted('upgrades')) await upgrades(figures, progress, await Edge.start(folder, 2, upstreams))
    if (wanted('kills')) await kills(figures, progress, await Edge.start(folder, 2, upstreams))
    if (wanted('throughput')) await throughput(figures, folder, upstreams)
    progress.clear()
    figures.finish(flags.json)
  } finally {
    for (const each of [backend, plain]) each.end()
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 })
  }
}

/** @param {Figures} figures @param {Progress} progress @param {Edge} edge */
async function upgrades(figures, progress, edge) {
  const scaled = (/** @type {number} */ count) => Math.max(1, Math.round(count * Number(flags.scale)))
  const all = Number(flags.upgrades)
  /** Connections of each of those below. */
  const wanted = [1, scaled(1_000), scaled(200), scaled(50)]
  const holding = [
    spawnClients('steady', { port: edge.port, rate: Number(flags.rate) }),
    spawnClients('idle', {
      port: edge.port,
      count: scaled(1_000),
      everyMs: 10_000,
      from: '127.0.0.2',
      run: 10_000_000,
    }),
    spawnClients('ws', { port: edge.port, count: scaled(200), from: '127.0.0.3', run: 20_000_000 }),
    spawnClients('tcp', { port: edge.tcpPort, count: scaled(50), from: '127.0.0.4', run: 30_000_000 }),
  ]
  try {
    for (const each of holding) await each.ready(60_000)
    /** @type {number[]} */
    const took = []
    for (let done = 0; done < all; done++) {
      const begun = performance.now()
      await edge.run('upgrade')
      took.push(performance.now() - begun)
      await pause(300)
      progress.show([`upgrade ${done + 1} of ${all}`], `upgrade ${done + 1} of ${all}`)
    }
    await pause(2_000)
    const reports = await Promise.all(holding.map(each => each.stop()))
    const answer = await status(edge.control)
    figures.add('upgrades of all', (answer?.generation ?? 0) - 1, '', '=', all)
    took.sort((a, b) => a - b)
    figures.info('one upgrade, median', took[took.length >> 1] ?? 0, 'ms')
    for (const [at, { kind, counts, incidents }] of reports.entries()) {
      figures.add(`${kind}: connections`, counts.opened, '', '>=', wanted[at] ?? Number.NaN)
      for (const what of /** @type {const} */ (['closed', 'failed', 'wrong']))
        figures.add(`${kind}: ${what}`, counts[what], '', '=', 0)
      for (const incident of incidents.slice(0, 3)) process.stderr.write(`${JSON.stringify(incident)}\n`)
    }
  } finally {
    for (const each of holding) each.kill()
    await edge.end()
  }
}

/** @param {Figures} figures @param {Progress} progress @param {Edge} edge */
async function kills(figures, progress, edge) {
  const all = Number(flags.kills)
  const load = edge.client('fresh', Number(flags.rate))
  /** @type {number[]} */
  const killed = []
  try {
    await load.answered(100)
    for (let done = 0; done < all; done++) {
      const before = await edge.workers()
      const victim = before[done % before.length] ?? 0
      killed.push(Date.now())
      signal(victim, 'SIGKILL')
      await until(`a worker in the place of ${victim}`, 30_000, async () => {
        const now = await edge.workers()
        return now.length === before.length && !now.includes(victim)
      })
      await pause(100)
      progress.show([`kill ${done + 1} of ${all}`], `kill ${done + 1} of ${all}`)
    }
    await pause(500)
    const { pids, failures } = await load.report()
    const outside = failures.filter(
      ({ at }) => !killed.some(kill => at >= kill - 50 && at <= kill + AFTER_KILL_MS),
    )
    for (const failure of outside.slice(0, 5)) process.stderr.write(`${JSON.stringify(failure)}\n`)
    figures.add('kills', killed.length, '', '=', all)
    figures.add(
      'requests answered meanwhile',
      Object.values(pids).reduce((sum, one) => sum + one, 0),
      '',
      '>=',
      1_000,
    )
    figures.add('connects refused', failures.filter(({ code }) => code === 'ECONNREFUSED').length, '', '=', 0)
    figures.info('failed at a kill (they were inside)', failures.length - outside.length, 'requests')
    figures.add('failed at another time', outside.length, 'requests', '=', 0)
  } finally {
    load.end()
    await edge.end()
  }
}

/**
 * In turns, so that both have the same machine. Each worker has the same part of a processor, and all the time that is left is the
 * clients': beside workers that take all they can, clients on the same processors would be what is measured.
 * @param {Figures} figures @param {string} folder @param {Upstreams} upstreams
 */
async function throughput(figures, folder, upstreams) {
  const seconds = Math.max(2, Number(flags.seconds) / 5)
  const edges = [await Edge.start(folder, 1, upstreams), await Edge.start(folder, 2, upstreams)]
  /** @type {number[][]} requests a second */
  const rates = [[], []]
  /** @type {(() => void)[]} */
  const limits = []
  try {
    for (let round = 0; round < 6; round++) {
      // The first is for the compiler.
      if (round === 1)
        for (const edge of edges)
          for (const pid of await edge.workers()) limits.push(limitProcessor(pid, SHARE))
      for (const [at, edge] of edges.entries()) {
        const report = await edge.clients('kept', 32 * (at + 1), seconds)
        if (round > 0) rates[at]?.push(perSecond(report))
      }
    }
  } finally {
    for (const edge of edges) await edge.end()
    for (const giveBack of limits) giveBack()
  }
  const [one, two] = rates.map(median)
  if (one === undefined || two === undefined) return
  figures.info(`one worker, ${SHARE * 100} % of a processor: requests a second`, one, '')
  figures.info(`two workers, ${SHARE * 100} % each`, two, '')
  figures.add('two workers, in workers', two / one, '', '>=', 1.8)
}

/** @typedef {{ backend: Awaited<ReturnType<typeof spawnBackend>>, plain: Awaited<ReturnType<typeof spawnPlain>> }} Upstreams */
/** @typedef {{ pids: Record<string, number>, failures: { code: string, at: number }[], seconds: number }} Report */

let started = 0

/** A proxy with workers. */
class Edge {
  /** @param {string} folder @param {number} count @param {Upstreams} upstreams */
  static async start(folder, count, { backend, plain }) {
    const [port, tcpPort] = [await freePort(), await freePort()]
    const name = join(folder, `edge${++started}`)
    const control = `${name}.sock`
    const config = { ...edgeConfig({ control, port, tcpPort, backend, plain }), workers: count }
    writeFileSync(`${name}.json`, JSON.stringify(config))
    const log = openSync(`${name}.log`, 'a')
    const child = spawn(process.execPath, [CLI, 'proxy', '--config', `${name}.json`, '--log-level', 'warn'], {
      stdio: ['ignore', log, log],
      detached: true,
      env: plainEnv(),
    })
    const edge = new Edge({ child, control, port, tcpPort, log: `${name}.log` })
    try {
      await until('the workers serve', 30_000, async () => (await edge.workers()).length === count)
    } catch (error) {
      process.stderr.write(readFileSync(`${name}.log`, 'utf8').slice(-2000))
      throw error
    }
    return edge
  }

  /** @param {{ child: import('node:child_process').ChildProcess, control: string, port: number, tcpPort: number, log: string }} parts */
  constructor({ child, control, port, tcpPort, log }) {
    this.child = child
    this.control = control
    this.port = port
    this.tcpPort = tcpPort
    this.log = log
  }

  /** The processes that serve. @returns {Promise<number[]>} */
  async workers() {
    const answer = await status(this.control)
    const all = /** @type {{ pid: number | null, phase: string }[]} */ (answer?.workers?.all ?? [])
    return all.flatMap(({ pid, phase }) => (pid !== null && phase === 'serving' ? [pid] : []))
  }

  /** @param {string[]} args */
  async run(...args) {
    await promisify(execFile)(process.execPath, [CLI, ...args, '--control', this.control])
  }

  /** @param {'fresh' | 'kept'} kind @param {number} many requests a second, or connections */
  client(kind, many) {
    const child = fork(fileURLToPath(import.meta.url), ['client', kind, String(this.port), String(many)], {
      execArgv: [],
    })
    const report = () =>
      /** @type {Promise<Report>} */ (
        new Promise(resolve => {
          child.once('message', message => resolve(/** @type {Report} */ (message)))
          child.send('report')
        })
      )
    return {
      report,
      /** @param {number} count */
      answered: count => until(`${count} answers`, 30_000, async () => total(await report()) >= count),
      end: () => child.kill('SIGKILL'),
    }
  }

  /** @param {'fresh' | 'kept'} kind @param {number} many @param {number} seconds @returns {Promise<Report>} */
  async clients(kind, many, seconds) {
    const clients = this.client(kind, many)
    try {
      await clients.answered(1)
      // The first second is not counted.
      await pause(1_000)
      const before = await clients.report()
      await pause(seconds * 1_000)
      const after = await clients.report()
      const pids = Object.fromEntries(
        Object.entries(after.pids).map(([pid, sum]) => [pid, sum - (before.pids[pid] ?? 0)]),
      )
      return { pids, failures: after.failures, seconds: after.seconds - before.seconds }
    } finally {
      clients.end()
    }
  }

  async end() {
    const pids = await this.workers()
    const main = (await status(this.control))?.pid
    if (main) signal(main, 'SIGTERM')
    await until('the proxy ends', 30_000, async () => (await status(this.control)) === null).catch(() => {
      for (const pid of [...pids, main]) if (pid) signal(pid, 'SIGKILL')
    })
    this.child.kill('SIGKILL')
  }
}

/** Counts answers by who gave them. @param {string[]} args */
function client([kind, port, many]) {
  /** @type {Record<string, number>} */
  const pids = {}
  /** @type {Report['failures']} */
  const failures = []
  const begun = performance.now()
  /** @param {boolean} once */
  const connect = once => {
    let text = ''
    let answered = false
    const request = `${REQUEST}${once ? 'Connection: close\r\n' : ''}\r\n`
    const socket = net.connect({ port: Number(port), host: '127.0.0.1', noDelay: true }, () =>
      socket.write(request, 'latin1'),
    )
    const failed = (/** @type {string} */ code) => {
      if (!answered) failures.push({ code, at: Date.now() })
      answered = true
    }
    socket.setEncoding('latin1')
    socket.on('error', error => failed(/** @type {NodeJS.ErrnoException} */ (error).code ?? error.message))
    socket.on('close', () => failed('closed'))
    socket.on('data', chunk => {
      text += chunk
      if (!text.endsWith('ok\n')) return
      const pid = /x-pid: (\d+)/i.exec(text)?.[1] ?? ''
      pids[pid] = (pids[pid] ?? 0) + 1
      text = ''
      if (once) answered = true
      else socket.write(request, 'latin1')
    })
  }
  if (kind === 'kept') for (let i = 0; i < Number(many); i++) connect(false)
  else {
    let sent = 0
    setInterval(() => {
      const due = ((performance.now() - begun) / 1_000) * Number(many)
      for (; sent < due; sent++) connect(true)
    }, 2)
  }
  process.on('message', () =>
    process.send?.({ pids, failures, seconds: (performance.now() - begun) / 1_000 }),
  )
}

/** How much more than its share the one has that was given most. @param {Pick<Report, 'pids'>} report @param {number} count */
function skew({ pids }, count) {
  const shares = Object.values(pids)
  const share = shares.reduce((sum, one) => sum + one, 0) / count
  return (Math.max(...shares, share) / share - 1) * 100
}

/**
 * Two standard deviations of a worker's share in percent, if the kernel sends each of `connections` to a worker at random. A connection
 * stays with its worker, so requests over few kept connections are as uneven as these connections.
 * @param {number} connections @param {number} count Workers.
 */
function noise(connections, count) {
  return 200 * Math.sqrt((count - 1) / connections)
}

/** @param {Report} report */
function total({ pids }) {
  return Object.values(pids).reduce((sum, one) => sum + one, 0)
}

/** @param {Report} report */
function perSecond(report) {
  return Math.round(total(report) / report.seconds)
}

/** @param {number} ms */
function pause(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}

if (positionals[0] === 'client') client(positionals.slice(1))
else await main()
