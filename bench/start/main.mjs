// @ts-check
// npm run bench -- start: how long a new version takes from its start to its first answer, and how much processor time until it
// serves, beside `node -e 0` in the same rounds: the proxy with a small configuration and with 10,000 routes, each an upgrade of
// the one before, each in JSON and in YAML; the library from join() to ready(). At rest; under load, which is 5,000 requests a second to the small proxy, before, during and
// after its upgrades, relayed to a server in C; and beside as many processes that compute without end as there are processors.
// Options: --rounds 10 --routes 10000 --node PATH (may be repeated: other versions of Node) --only rest,load,busy --rate 5000
// --release 0.4.0 (that release in the same rounds; or the folder of another clone that is built) --json FILE
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { dump } from 'js-yaml'
import { freePort } from '../free-port.mjs'
import { median } from '../median.mjs'
import { Bare } from '../proxy/bare.mjs'
import { OpenLoad } from '../proxy/open-load.mjs'
import { releaseCommand, releaseProgram } from '../release.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { phasesOf, status } from '../status.mjs'
import { answers, busy, cpuMs, ended, start } from './processes.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '10' },
    routes: { type: 'string', default: '10000' },
    node: { type: 'string', multiple: true, default: [process.execPath] },
    only: { type: 'string', default: 'rest,load,busy' },
    rate: { type: 'string', default: '5000' },
    release: { type: 'string' },
    json: { type: 'string' },
  },
})
const rounds = Number(flags.rounds)
const routes = Number(flags.routes)
const rate = Number(flags.rate)
/** The bar, relative to a kept release in the same run. */
const MOST_OF_RELEASE = 1.5
const only = flags.only.split(',')
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBER = fileURLToPath(new URL('member.mjs', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-start-'))
const codeCache = join(folder, 'code')
const codeOfRelease = join(folder, 'code-of-release')
/** @param {string} version */
function releaseOf(version) {
  const empty = () => mkdtempSync(join(folder, 'release-'))
  return { cli: releaseCommand(version, empty()), member: releaseProgram(version, empty(), MEMBER) }
}
const release = flags.release === undefined ? null : releaseOf(flags.release)
const progress = new Progress()
const figures = new Figures('start')

/** @typedef {{ wall: number, cpu: number | null, sinceStart?: { wall: number, cpu: number } }} Sample `sinceStart`: where the sample begins later than the process */

/** One kind of server, each process of which is the next version of the one before. */
class Versions {
  /** @type {import('node:child_process').ChildProcess | null} */
  #before = null

  /** @param {() => Promise<{ child: import('node:child_process').ChildProcess, sample: Sample }>} next */
  constructor(next) {
    this.next = async () => {
      const { child, sample } = await next()
      if (this.#before !== null) await ended(this.#before)
      this.#before = child
      return sample
    }
  }

  async end() {
    this.#before?.kill('SIGKILL')
    if (this.#before !== null) await ended(this.#before)
  }
}

/**
 * @param {string} node
 * @param {string} name
 * @param {number} count of routes
 * @param {string} cache
 * @param {{ server?: string | null, cli?: string, write?: (document: object) => string }} [options] `server`: that it relays to; null: it
 * answers itself
 */
async function proxy(node, name, count, cache, { server = null, cli = CLI, write = JSON.stringify } = {}) {
  const port = await freePort()
  const control = join(folder, `${name}.sock`)
  const file = join(folder, `${name}.conf`)
  const respond = { status: 200, body: 'ok\n' }
  writeFileSync(
    file,
    write({
      service: name,
      control,
      instanceHeader: 'X-Pid',
      listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
      upstreams: server === null ? {} : { server: { servers: [server] } },
      routes: [
        { host: '*', path: '/', ...(server === null ? { respond } : { upstream: 'server' }) },
        ...Array.from({ length: count }, (_, n) => ({ host: '*', path: `/r/${n}`, respond })),
      ],
      upgrade: { probation: '0s' },
    }),
  )
  const args = [cli, 'proxy', '--config', file, '--log-level', 'warn']
  const versions = new Versions(async () => {
    const began = performance.now()
    const child = start(node, args, { FD_BROKER_CODE_CACHE: cache })
    const pid = child.pid ?? 0
    await answers(port, child)
    return { child, sample: { wall: performance.now() - began, cpu: cpuMs(pid) } }
  })
  return { versions, control, port }
}

/** @param {string} node @param {string} name @param {string} [file] */
async function member(node, name, file = MEMBER) {
  const address = `tcp://127.0.0.1:${await freePort()}`
  const control = join(folder, `${name}.sock`)
  return new Versions(async () => {
    const child = start(node, [file, control, address])
    const [line] = await once(createInterface(/** @type {any} */ (child.stdout)), 'line')
    const { joinToReady, cpu, all } = JSON.parse(line)
    const sinceStart = { wall: all, cpu: cpuMs(child.pid ?? 0) }
    return { child, sample: { wall: joinToReady, cpu, sinceStart } }
  })
}

/** @param {string} node @returns {Promise<Sample>} */
async function bareNode(node) {
  const began = performance.now()
  await ended(start(node, ['-e', '0']))
  return { wall: performance.now() - began, cpu: null }
}

/** Without aliases, of which some readers accept only a few. @param {object} document */
const yaml = document => dump(document, { noRefs: true })

/** Until the code of the first one is kept there, which it is a while after it serves. @param {string} folder */
async function untilKept(folder) {
  const give = performance.now() + 20_000
  const kept = () => {
    try {
      return readdirSync(folder).some(name => name.endsWith('.v8'))
    } catch {
      return false
    }
  }
  while (!kept() && performance.now() < give) await new Promise(resolve => setTimeout(resolve, 50))
}

/**
 * @param {string} node
 * @param {string} where
 * @param {{ small: number, join: number, many: number, cpu: number } | null} goals null: what it takes is shown, and is held against nothing
 * @param {Bare | null} [bare] what requests are relayed to, a few thousand a second
 */
async function measure(node, where, goals, bare = null) {
  for (const kept of [codeCache, codeOfRelease]) rmSync(kept, { recursive: true, force: true })
  const server = await bare?.start('server')
  const url = server === undefined ? null : `http://127.0.0.1:${server.port}`
  const small = await proxy(node, 'small', 0, codeCache, { server: url })
  const first = await proxy(node, 'first', 0, 'off')
  const many = await proxy(node, 'many', routes, codeCache)
  const smallYaml = await proxy(node, 'small-yaml', 0, codeCache, { server: url, write: yaml })
  const manyYaml = await proxy(node, 'many-yaml', routes, codeCache, { write: yaml })
  const library = await member(node, 'library')
  /** Keeps its own code, if that release does. @param {string} name @param {number} count @param {(document: object) => string} [write] */
  const before = async (name, count, write = JSON.stringify) => {
    const { versions } = await proxy(node, name, count, codeOfRelease, {
      ...release,
      server: count === 0 ? url : null,
      write,
    })
    return versions
  }
  /** @type {Record<string, Versions>} */
  const ofRelease =
    release === null
      ? {}
      : {
          'proxy, small': await before('small-before', 0),
          [`proxy, ${routes} routes`]: await before('many-before', routes),
          'proxy, small, YAML': await before('small-yaml-before', 0, yaml),
          [`proxy, ${routes} routes, YAML`]: await before('many-yaml-before', routes, yaml),
          'library, join to ready': await member(node, 'library-before', release.member),
        }
  const ofBefore = (/** @type {string} */ name) => `${flags.release} ${name}`
  const kinds = {
    'node -e 0': () => bareNode(node),
    'proxy, small': () => small.versions.next(),
    'proxy, small, no code kept': () => first.versions.next(),
    [`proxy, ${routes} routes`]: () => many.versions.next(),
    'proxy, small, YAML': () => smallYaml.versions.next(),
    [`proxy, ${routes} routes, YAML`]: () => manyYaml.versions.next(),
    'library, join to ready': () => library.next(),
    ...Object.fromEntries(
      Object.entries(ofRelease).map(([name, versions]) => [ofBefore(name), () => versions.next()]),
    ),
  }
  /** @type {Map<string, Sample[]>} */
  const samples = new Map(Object.keys(kinds).map(name => [name, []]))
  /** @type {OpenLoad | null} */
  let load = null
  try {
    // The first process of each kind takes over from none, and its code is not cached yet.
    for (const next of Object.values(kinds)) await next()
    await untilKept(codeCache)
    if (flags.release?.includes('/')) await untilKept(codeOfRelease)
    load = server
      ? new OpenLoad({ folder, port: small.port, rate, connections: 32, routes: 1000, fresh: 100 })
      : null
    for (let round = 1; round <= rounds; round++) {
      progress.show([`${where}: round ${round} of ${rounds}`], `${where}: round ${round} of ${rounds}`)
      for (const [name, next] of Object.entries(kinds)) samples.get(name)?.push(await next())
    }
    const phases = phasesOf(await status(small.control))
    progress.clear()
    for (const [name, all] of [...samples]) {
      const whole = all.flatMap(({ sinceStart }) => sinceStart ?? [])
      if (whole.length > 0) samples.set(name.replace('join', 'start'), whole)
    }
    const wall = (/** @type {string} */ name) => median((samples.get(name) ?? []).map(sample => sample.wall))
    const cpu = (/** @type {string} */ name) => median((samples.get(name) ?? []).map(each => each.cpu ?? NaN))
    const base = wall('node -e 0')
    const rows = [...samples].map(([name, all]) => {
      const times = all.map(sample => sample.wall)
      return [
        name,
        wall(name).toFixed(0),
        Math.min(...times).toFixed(0),
        (wall(name) / base).toFixed(1),
        Number.isNaN(cpu(name)) ? '' : cpu(name).toFixed(0),
      ]
    })
    console.log(`\n${where}\n${table([['', 'ms', 'least', 'x node', 'CPU ms'], ...rows]).join('\n')}`)
    console.log(`the last small one, ms after its Hello: ${phases}`)
    /** Beside processes without end no time is promised. @param {string} what @param {number} ms @param {number | undefined} goal */
    const judge = (what, ms, goal) => {
      if (goal === undefined) figures.info(`${where}: ${what}`, ms, 'ms')
      else figures.add(`${where}: ${what}`, ms, 'ms', '<=', goal)
    }
    judge('proxy to its first answer', wall('proxy, small'), goals?.small)
    figures.info(`${where}: the same`, wall('proxy, small') / base, 'x node -e 0')
    judge('CPU until then', cpu('proxy, small'), goals?.cpu)
    judge(`${routes} routes`, wall(`proxy, ${routes} routes`), goals?.many)
    judge('join() to ready()', wall('library, join to ready'), goals?.join)
    for (const name of samples.keys()) {
      if (!samples.has(ofBefore(name))) continue
      const taken = wall(name) / wall(ofBefore(name))
      figures.add(`${where}: ${name}, of that of ${flags.release}`, taken, 'x', '<=', MOST_OF_RELEASE)
      const part = cpu(name) / cpu(ofBefore(name))
      if (Number.isNaN(part)) continue
      figures.add(`${where}: CPU of ${name}, of that of ${flags.release}`, part, 'x', '<=', MOST_OF_RELEASE)
    }
    if (load === null) return
    const { perSecond, lost, why } = await load.stop()
    figures.add(`${where}: requests lost ${why}`.trim(), lost, 'requests', '=', 0)
    figures.add(`${where}: load`, perSecond, 'requests/s', '>=', 0.9 * rate)
  } finally {
    load?.kill()
    const proxies = [small, first, many, smallYaml, manyYaml].map(({ versions }) => versions)
    for (const versions of [...proxies, library, ...Object.values(ofRelease)]) await versions.end()
    server?.end()
  }
}

try {
  for (const node of flags.node) {
    const version = await versionOf(node)
    const goals = { small: 170, join: 60, many: 450, cpu: 110 }
    if (only.includes('rest')) await measure(node, `${version} at rest`, { ...goals, small: 100 })
    if (only.includes('load')) await measure(node, `${version} under load`, goals, new Bare(folder))
    if (!only.includes('busy')) continue
    const end = busy(availableParallelism())
    try {
      await measure(node, `${version} beside processes without end`, null)
    } finally {
      end()
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
figures.finish(flags.json)

/** @param {string} node */
async function versionOf(node) {
  const child = start(node, ['--version'])
  const [line] = await once(createInterface(/** @type {any} */ (child.stdout)), 'line')
  return `Node ${String(line)}`
}
