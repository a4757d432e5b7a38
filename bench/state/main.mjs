// @ts-check
// npm run bench -- state: what an upgrade costs both processes with 1,000 to 1,000,000 routes in the state, and what all else costs that is done with as
// many; beside it what one-shot codecs need for the same routes, which is how long they hold the loop of the old process.
// Options: --sizes 1000,1000000 --rounds 3 --only handoffs,bulks,follow,file,proxy,codecs --json FILE
// --release FOLDER: the new process beside that of another clone, which is built, in handoffs that alternate
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { startGenerations } from './pair.mjs'
import { bulks, followed, fromFile, proxies } from './scenes.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    sizes: { type: 'string', default: '1000,10000,100000,1000000' },
    only: { type: 'string', default: 'handoffs,bulks,follow,file,proxy,codecs' },
    release: { type: 'string' },
    json: { type: 'string' },
  },
})
const rounds = Number(flags.rounds)
const sizes = flags.sizes.split(',').map(Number)
const only = new Set(flags.only.split(','))
/** As many as a configuration file has. */
const MOST_WRITTEN = 100_000
const TURN_MS = 10
/** The bar, relative to another clone in the same run. */
const MOST_OF_RELEASE = 1.5
const CODECS = ['protobufjs', 'msgpackr', 'v8.serialize', 'JSON']
const oneShot = fileURLToPath(new URL('one-shot.mjs', import.meta.url))
const MB = 2 ** 20

/** Percent. @param {{ before: number, peak: number }} memory */
const growth = ({ before, peak }) => (100 * Math.max(0, peak - before)) / before
/** @param {number} value */
const one = value => value.toFixed(1)

const progress = new Progress()
const figures = new Figures('state')
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
/**
 * The median of several rounds: work that takes long by itself takes long in each of them.
 * @param {import('./scenes.mjs').Measured[]} all
 */
const work = all => median(all.map(({ work }) => work))
/** @param {import('./scenes.mjs').Measured[]} all */
const longest = all => Math.max(...all.map(({ turn }) => turn))
const heads = {
  work: ['routes', 'what', 'ms', 'CPU ms', 'routes/s of CPU', 'work in one turn ms', 'longest turn ms'],
  old: ['routes', 'MiB', 'turn ms', 'idle', 'work ms', 'idle', 'CPU ms', 'idle', 'peak MiB', 'growth %'],
  next: ['routes', 'read ms', 'serving ms', 'turn ms', 'work ms', 'CPU ms', 'peak MiB'],
  codecs: ['routes', 'codec', 'loop held ms', 'decode ms', 'MiB', 'peak MiB', 'growth %'],
}
/** @type {Record<keyof typeof heads, (string | number)[][]>} */
const rows = { work: [heads.work], old: [heads.old], next: [heads.next], codecs: [heads.codecs] }
const lines = () => [
  'all that is done with them (medians; the longest turn with garbage collection and scheduler)',
  ...table(rows.work),
  '',
  'the old process, in the handoff and idle',
  ...table(rows.old),
  '',
  'the new process: from its Hello; turns from Ready to Serving',
  ...table(rows.next),
  '',
  'one-shot codecs',
  ...table(rows.codecs),
]
/** @param {string} line */
const show = line => progress.show([...lines(), '', line], line)

/**
 * Notes the work of several rounds, and that no turn was long.
 * @param {string} name @param {number} count @param {string} what @param {import('./scenes.mjs').Measured[]} all
 */
function note(name, count, what, all) {
  const cpu = median(all.map(({ cpu }) => cpu))
  const rate = (1000 * count) / cpu
  const ms = median(all.map(({ ms }) => ms))
  const numbers = [ms, cpu].map(value => (value === undefined ? '' : value.toFixed(0)))
  rows.work.push([count, what, ...numbers, rate.toFixed(0), one(work(all)), one(longest(all))])
  figures.add(`${name}: ${what}, work in one turn`, work(all), 'ms', '<=', TURN_MS)
  return rate
}

/** @template T @param {string} name @param {string} part @param {(round: number) => Promise<T>} scene @returns {Promise<T[]>} */
async function inRounds(name, part, scene) {
  const all = []
  for (let round = 1; only.has(part) && round <= rounds; round++) {
    show(`${name}: ${part} ${round} of ${rounds}`)
    all.push(await scene(round))
  }
  return all
}

/** @template {string} K @param {Record<K, import('./scenes.mjs').Measured>[]} all @param {K} what */
const pick = (all, what) => all.map(each => each[what])

/** @param {string} name @param {number} count */
async function measureWork(name, count) {
  const at = (/** @type {string} */ part, /** @type {number} */ round) =>
    join(folder, `${part}-${count}-${round}.sock`)
  const put = await inRounds(name, 'bulks', round => bulks(at('b', round), count))
  if (put.length > 0) {
    const rate = note(name, count, 'put in one bulk', pick(put, 'bulk'))
    note(name, count, 'put again, with other values, and compacted', pick(put, 'again'))
    if (count >= MOST_WRITTEN)
      figures.add(`${name}: put in one bulk, a second of CPU`, rate, '', '>=', 100_000)
    const read = median(put.map(({ read }) => (1000 * count) / read.cpu))
    figures.info(`${name}: looked at one by one, a second of CPU`, read, '')
  }
  const seen = await inRounds(name, 'follow', round => followed(at('f', round), count))
  if (seen.length > 0) note(name, count, 'followed by another service', seen.flat())
  const begun = await inRounds(name, 'file', round => fromFile(at('s', round), count))
  if (begun.length > 0) note(name, count, 'begun with from the state file', begun)
  const written = Math.min(count, MOST_WRITTEN)
  const served = await inRounds(name, 'proxy', round => proxies(at('p', round), written, count))
  if (served.length === 0) return
  note(name, written, 'proxy: configuration read again', pick(served, 'reload'))
  note(name, count, 'proxy: made at run time', pick(served, 'follow'))
  note(name, count + written, 'proxy: taken over by the next', pick(served, 'taken'))
  note(name, count + written, 'proxy: handed over by the one before', pick(served, 'left'))
}

/** @param {string} name @param {number} count */
async function measureHandoffs(name, count) {
  show(`${name}: loading`)
  const generations = await startGenerations(join(folder, `${count}.sock`), count)
  const seen = { turns: /** @type {any[]} */ ([]), cpu: /** @type {any[]} */ ([]) }
  // Each process takes part in two handoffs: once new, once old.
  for (let round = 1; round <= rounds; round++) {
    for (const what of /** @type {const} */ (['turns', 'cpu'])) {
      show(`${name}: handoff ${2 * round - (what === 'turns' ? 1 : 0)} of ${2 * rounds}`)
      seen[what].push(await generations.handOver(what))
    }
  }
  await generations.end()

  const { turns, cpu } = seen
  const most = (/** @type {any[]} */ all, /** @type {(each: any) => number} */ of) => Math.max(...all.map(of))
  const old = {
    turn: most(turns, ({ left }) => left.turn),
    turnIdle: most(turns, ({ idle }) => idle.turn),
    work: most(turns, ({ left }) => left.work),
    blocked: most(turns, ({ left }) => left.blocked),
    workIdle: most(turns, ({ idle }) => idle.work),
    cpu: most(cpu, ({ left }) => left.cpu),
    cpuIdle: median(cpu.map(({ idle, left }) => (idle.cpu / idle.ms) * left.ms)),
    peak: most(cpu, ({ left }) => left.peak),
    growth: most(cpu, ({ left }) => growth(left)),
  }
  const next = {
    read: median(cpu.map(({ taken }) => taken.read)),
    serving: median(cpu.map(({ taken }) => taken.serving)),
    turn: most(turns, ({ taken }) => taken.after.turn),
    work: most(turns, ({ taken }) => taken.after.work),
    joining: work(turns.map(({ taken }) => taken.joining)),
    rate: (1000 * count) / median(cpu.map(({ taken }) => taken.joining.cpu)),
    cpu: median(cpu.map(({ taken }) => taken.whole.cpu)),
    peak: most(cpu, ({ taken }) => taken.whole.peak),
  }
  rows.old.push([
    count,
    ...[generations.bytes / MB, old.turn, old.turnIdle, old.work, old.workIdle].map(one),
    ...[old.cpu, old.cpuIdle, old.peak, old.growth].map(one),
  ])
  rows.next.push([count, ...[next.read, next.serving, next.turn, next.work, next.cpu, next.peak].map(one)])

  figures.add(`${name}: old process, work in one turn`, old.work, 'ms', '<=', TURN_MS)
  figures.add(`${name}: old process, asleep in one turn`, old.blocked, 'ms', '<=', TURN_MS)
  figures.info(`${name}: old process, longest turn with garbage collection and scheduler`, old.turn, 'ms')
  figures.info(`${name}: the same without an upgrade`, old.turnIdle, 'ms')
  figures.add(`${name}: old process, CPU time of the handoff`, old.cpu, 'ms', '<=', 20)
  figures.info(`${name}: old process, peak memory`, old.peak, 'MiB')
  // A small heap's noise is more than that.
  if (count >= 1_000_000) {
    figures.add(`${name}: old process, memory growth`, old.growth, '%', '<=', 5)
  } else figures.info(`${name}: old process, memory growth`, old.growth, '%')
  if (count >= MOST_WRITTEN)
    figures.add(`${name}: read by the new process, a second of CPU`, next.rate, '', '>=', 500_000)
  figures.add(
    `${name}: new process, work in one turn until it has the state`,
    next.joining,
    'ms',
    '<=',
    TURN_MS,
  )
  figures.add(`${name}: new process, work in one turn after Ready`, next.work, 'ms', '<=', TURN_MS)
  figures.info(`${name}: new process, Hello to state read`, next.read, 'ms')
  figures.info(`${name}: new process, Hello to Serving`, next.serving, 'ms')
  figures.info(`${name}: new process, peak memory`, next.peak, 'MiB')
  figures.info(`${name}: log`, generations.bytes / MB, 'MiB')
}

/** Divides the costs of new processes of this clone by those of another clone. @param {string} name @param {number} count @param {string} clone */
async function compareHandoffs(name, count, clone) {
  show(`${name}: loading`)
  const own = await startGenerations(join(folder, `own-${count}.sock`), count)
  const other = await startGenerations(join(folder, `other-${count}.sock`), count, clone)
  /** @type {{ ours: any, theirs: any }[]} */
  const pairs = []
  // The first process of each has loaded all itself: the second is the first that takes over from one like itself.
  for (let round = 0; round <= rounds; round++) {
    show(`${name}: both, round ${round} of ${rounds}`)
    const { taken: ours } = await own.handOver('cpu')
    const { taken: theirs } = await other.handOver('cpu')
    if (round > 0) pairs.push({ ours, theirs })
  }
  await own.end()
  await other.end()
  const part = (/** @type {(taken: any) => number} */ of) =>
    median(pairs.map(({ ours }) => of(ours))) / median(pairs.map(({ theirs }) => of(theirs)))
  const joining = part(({ joining }) => joining.cpu)
  figures.info(`${name}: new process, CPU until it has the state, of that of ${clone}`, joining, 'x')
  figures.info(
    `${name}: new process, CPU until it serves, of that of ${clone}`,
    part(({ whole }) => whole.cpu),
    'x',
  )
  const serving = part(({ serving }) => serving)
  figures.add(
    `${name}: new process, Hello to Serving, of that of ${clone}`,
    serving,
    'x',
    '<=',
    MOST_OF_RELEASE,
  )
}

/** @param {string} name @param {number} count */
function measureCodecs(name, count) {
  for (const codec of CODECS) {
    show(`${name}: one-shot ${codec}`)
    const heap = '--max-old-space-size=8192'
    const args = ['--expose-gc', heap, oneShot, codec, String(count)]
    /** @type {{ encode: number, decode: number, bytes: number, before: number, peak: number }} */
    const result = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
    const { encode, decode, bytes, before, peak } = result
    rows.codecs.push([count, codec, ...[encode, decode, bytes / MB, peak, growth(result)].map(one)])
    figures.info(`${name}: one-shot ${codec} holds the loop`, encode, 'ms')
    figures.info(`${name}: one-shot ${codec}, memory growth`, (100 * (peak - before)) / before, '%')
  }
}

for (const count of sizes) {
  const name = `${count.toLocaleString('en')} routes`
  await measureWork(name, count)
  if (only.has('handoffs')) await measureHandoffs(name, count)
  if (flags.release !== undefined) await compareHandoffs(name, count, resolve(flags.release))
  if (only.has('codecs')) measureCodecs(name, count)
}
rmSync(folder, { recursive: true })
progress.clear()
console.log(lines().join('\n'))
figures.finish(flags.json)
