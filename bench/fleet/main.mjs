// @ts-check
// npm run bench -- fleet: what machines that follow one etcd cost it: connections and memory, bytes and time of a change, and how they come back after an
// outage. The followers are in one process, with the code of a machine, but share the state, which has only what changes; etcd is a real one.
// Options: --followers 1000 --routes 100000 --changes 50 --away 10 (seconds) --lists 4 --json FILE
import { spawn } from 'node:child_process'
import { subscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { EtcdSource } from '../../build/modules/sources/etcd-source.js'
import { followSource } from '../../build/modules/sources/follow-source.js'
import { Figures, Progress, table } from '../report.mjs'

const { values: flags } = parseArgs({
  options: {
    followers: { type: 'string', default: '1000' },
    routes: { type: 'string', default: '100000' },
    changes: { type: 'string', default: '50' },
    away: { type: 'string', default: '10' },
    lists: { type: 'string', default: '4' },
    json: { type: 'string' },
  },
})
const followers = Number(flags.followers)
const routes = Number(flags.routes)
const changes = Number(flags.changes)
const away = Number(flags.away)
const lists = Number(flags.lists)
const [PORT, PEER] = [23_790, 23_800]
const URL_OF_ETCD = `http://127.0.0.1:${PORT}`
const PREFIX = '/edge/'
const IN_A_TRANSACTION = 128
/** Limit for each change, and for all to watch and to come back. */
const MOST_MS = 180_000
const MIB = 2 ** 20
const TICKS = 100

const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
const progress = new Progress()
const figures = new Figures('fleet')
/** @param {string} text */
const base64 = text => Buffer.from(text).toString('base64')
/** @param {number} n */
const key = n => `${PREFIX}routes/h${n}.example/`
/** @param {string} body */
const route = body => JSON.stringify({ respond: { body } })

/** @param {string} path @param {object} body @returns {Promise<any>} */
async function call(path, body) {
  const answer = await fetch(`${URL_OF_ETCD}/v3/${path}`, { method: 'POST', body: JSON.stringify(body) })
  return await answer.json()
}

async function startEtcd() {
  const peer = `http://127.0.0.1:${PEER}`
  const options = {
    'data-dir': join(folder, 'etcd'),
    'listen-client-urls': URL_OF_ETCD,
    'advertise-client-urls': URL_OF_ETCD,
    'listen-peer-urls': peer,
    'initial-advertise-peer-urls': peer,
    'initial-cluster': `default=${peer}`,
  }
  const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value])
  const child = spawn('etcd', words, { stdio: 'ignore' })
  await until(() => call('kv/range', { key: base64('a') }).then(Boolean, () => false))
  return child
}

/** @param {() => boolean | Promise<boolean>} holds @returns {Promise<number>} milliseconds */
async function until(holds) {
  const begun = performance.now()
  while (!(await holds())) {
    if (performance.now() - begun > MOST_MS) throw new Error(`not within ${MOST_MS} ms: ${holds}`)
    await pause(2)
  }
  return performance.now() - begun
}

/** Memory in MiB and processor seconds of a process. @param {number | undefined} pid */
function usage(pid) {
  const memory = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return { memory, seconds: (Number(fields[11]) + Number(fields[12])) / TICKS }
}

/**
 * Bytes that the followers have received, also of connections that have ended.
 * @type {Set<import('node:net').Socket>}
 */
const sockets = new Set()
let endedBytes = 0
let opened = 0
subscribe('net.client.socket', message => {
  const { socket } = /** @type {{ socket: import('node:net').Socket }} */ (message)
  opened++
  sockets.add(socket)
  socket.once('close', () => {
    endedBytes += socket.bytesRead
    sockets.delete(socket)
  })
})
const received = () => [...sockets].reduce((sum, socket) => sum + socket.bytesRead, endedBytes)

/** @typedef {Map<string, any>} Entries */
/** A draft of the state, whose sections are maps. */
const STATE = {
  get: (/** @type {Entries} */ map, /** @type {string} */ key) => map.get(key),
  has: (/** @type {Entries} */ map, /** @type {string} */ key) => map.has(key),
  put: (/** @type {Entries} */ map, /** @type {string} */ key, /** @type {any} */ value) =>
    map.set(key, value),
  delete: (/** @type {Entries} */ map, /** @type {string} */ key) => map.delete(key),
}

/** A follower of the source, with a state in memory. */
class Follower {
  /** When it has got each number. @type {number[]} */
  at = []
  #end = () => {}

  /** @param {string | null} revision */
  constructor(revision) {
    /** @type {Map<string, Map<string, any>>} */
    const sections = new Map()
    /** @param {string} name */
    const section = name => {
      const entries = sections.get(name) ?? new Map()
      sections.set(name, entries)
      return Object.assign(entries, { name })
    }
    const source = new EtcdSource({ hosts: [URL_OF_ETCD], prefix: PREFIX })
    if (revision !== null) section('sources').set('source', { id: source.id, revision })
    const member = {
      first: revision === null,
      follows: null,
      retired: new Promise(() => {}),
      section,
      whileServing: (/** @type {() => () => void} */ start) => (this.#end = start()),
      update: async (/** @type {(state: typeof STATE) => boolean} */ change) => change(STATE),
    }
    const parse = (/** @type {string} */ _, /** @type {Uint8Array} */ value) => {
      const { body } = JSON.parse(Buffer.from(value).toString()).respond
      const number = Number(body)
      if (Number.isInteger(number)) this.at[number] = performance.now()
      return body
    }
    const values = section('source')
    const bulk = async (/** @type {{ key: string, value: any }[]} */ all) => {
      for (const { key, value } of all) values.set(key, value)
    }
    const stubs = /** @type {[any, any]} */ ([member, Object.assign(values, { bulk })])
    this.followed = followSource(...stubs, source, { parse })
  }

  stop() {
    return this.#end()
  }
}

/** @param {number[]} values */
function shares(values) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (/** @type {number} */ share) =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0)
  return { p50: at(0.5), p99: at(0.99), max: at(1) }
}

/** @type {(string | number)[][]} */
const rows = [['what', 'value', 'unit']]
/** @param {string} name @param {number} value @param {string} unit */
function fact(name, value, unit) {
  const rounded = value >= 100 ? Math.round(value) : Number(value.toPrecision(2))
  figures.info(name, rounded, unit)
  rows.push([name, rounded, unit])
  progress.show(table(rows), `${name}: ${rounded} ${unit}`)
}

let etcd = await startEtcd()
try {
  for (let from = 0; from < routes; from += IN_A_TRANSACTION) {
    const count = Math.min(IN_A_TRANSACTION, routes - from)
    const success = Array.from({ length: count }, (_, n) => ({
      requestPut: { key: base64(key(from + n)), value: base64(route(`first ${from + n}`)) },
    }))
    await call('kv/txn', { success })
  }
  // One after the other: a first process lists all routes.
  const idle = usage(etcd.pid)
  const bytesBefore = received()
  /** @type {number[]} */
  const listMs = []
  for (let n = 0; n < lists; n++) {
    const begun = performance.now()
    const follower = new Follower(null)
    await follower.followed.contents()
    listMs.push(performance.now() - begun)
    await follower.stop()
  }
  fact('list: time', listMs.reduce((a, b) => a + b, 0) / lists, 'ms')
  fact('list: received', (received() - bytesBefore) / lists / MIB, 'MiB')
  fact('list: CPU of etcd', ((usage(etcd.pid).seconds - idle.seconds) / lists) * 1000, 'ms')

  const { header } = await call('kv/range', { key: base64('a') })
  const revision = `${header.revision}@${header.cluster_id}`
  const before = usage(etcd.pid)
  const all = Array.from({ length: followers }, () => new Follower(revision))
  const watched = await until(async () => {
    const { header } = await call('kv/put', { key: base64(key(0)), value: base64(route('ready')) })
    await pause(500)
    return all.every(
      ({ followed }) => BigInt(followed.status.revision?.split('@')[0] ?? 0) >= BigInt(header.revision),
    )
  })
  await pause(2_000)
  const watching = usage(etcd.pid)
  fact('watches: until all are open', watched, 'ms')
  fact('watches: memory of etcd for each', ((watching.memory - before.memory) / followers) * 1024, 'KiB')
  fact('watches: memory of etcd before', before.memory, 'MiB')

  const quiet = { ...usage(etcd.pid), bytes: received(), opened, at: performance.now() }
  await pause(20_000)
  const seconds = (performance.now() - quiet.at) / 1000
  fact(
    'at rest: CPU of etcd',
    ((usage(etcd.pid).seconds - quiet.seconds) / seconds) * 100,
    '% of a processor',
  )
  fact('at rest: new connections', (opened - quiet.opened) / seconds, '/s')

  const busy = { ...usage(etcd.pid), bytes: received() }
  /** @type {number[]} */
  const latencies = []
  for (let n = 0; n < changes; n++) {
    await call('kv/put', { key: base64(key(n)), value: base64(route(`${n}`)) })
    const made = performance.now()
    await until(() => all.every(({ at }) => at[n] !== undefined))
    latencies.push(...all.map(({ at }) => Math.max(0, (at[n] ?? 0) - made)))
    await pause(200)
  }
  const took = shares(latencies)
  for (const share of /** @type {const} */ (['p50', 'p99', 'max']))
    fact(`change: until a machine has it, ${share}`, took[share], 'ms')
  fact('change: received by each machine', (received() - busy.bytes) / changes / followers, 'bytes')
  fact('change: CPU of etcd for each', ((usage(etcd.pid).seconds - busy.seconds) / changes) * 1000, 'ms')

  const ended = once(etcd, 'exit')
  etcd.kill('SIGKILL')
  await ended
  await pause(away * 1000)
  const herd = opened
  etcd = await startEtcd()
  const begun = performance.now()
  await call('kv/put', { key: base64(key(changes)), value: base64(route(`${changes}`)) })
  await until(() => all.every(({ at }) => at[changes] !== undefined))
  const back = shares(all.map(({ at }) => (at[changes] ?? 0) - begun))
  for (const share of /** @type {const} */ (['p50', 'p99', 'max']))
    fact(`outage: until a machine is back, ${share}`, back[share], 'ms')
  fact('outage: connections until all are back', opened - herd, '')
  const after = usage(etcd.pid)
  fact('outage: CPU of etcd, with its start', after.seconds, 's')
  fact('outage: memory of etcd', after.memory, 'MiB')
  progress.clear()
  figures.finish(flags.json)
} finally {
  etcd.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true })
}
process.exit()
