// @ts-check
// npm run bench -- state: what an upgrade costs both processes with 1,000 to 1,000,000 routes in the state; beside it what
// one-shot codecs need for the same routes, which is how long they hold the loop of the old process.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Figures, Progress, table } from '../report.mjs'
import { startGenerations } from './pair.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    sizes: { type: 'string', default: '1000,10000,100000,1000000' },
    json: { type: 'string' },
  },
})
const rounds = Number(flags.rounds)
const sizes = flags.sizes.split(',').map(Number)
const CODECS = ['protobufjs', 'msgpackr', 'v8.serialize', 'JSON']
const oneShot = fileURLToPath(new URL('one-shot.mjs', import.meta.url))
const MB = 2 ** 20

/** @param {number[]} values */
const median = values => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
/** @param {number} value */
const one = value => value.toFixed(1)

const progress = new Progress()
const figures = new Figures('state')
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
const heads = {
  old: ['routes', 'MiB', 'turn ms', 'idle', 'work ms', 'idle', 'CPU ms', 'idle', 'peak MiB', 'growth %'],
  next: ['routes', 'read ms', 'serving ms', 'turn ms', 'work ms', 'CPU ms', 'peak MiB'],
  codecs: ['routes', 'codec', 'loop held ms', 'decode ms', 'MiB', 'peak MiB', 'growth %'],
}
/** @type {Record<keyof typeof heads, (string | number)[][]>} */
const rows = { old: [heads.old], next: [heads.next], codecs: [heads.codecs] }
const lines = () => [
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

for (const count of sizes) {
  const name = `${count.toLocaleString('en')} routes`
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
  const growth = (/** @type {any} */ { before, peak }) => (100 * Math.max(0, peak - before)) / before
  const old = {
    turn: most(turns, ({ left }) => left.longest),
    turnIdle: most(turns, ({ idle }) => idle.longest),
    work: most(turns, ({ left }) => left.work),
    workIdle: most(turns, ({ idle }) => idle.work),
    cpu: most(cpu, ({ left }) => left.cpu),
    cpuIdle: median(cpu.map(({ idle, left }) => (idle.cpu / idle.ms) * left.ms)),
    peak: most(cpu, ({ left }) => left.peak),
    growth: most(cpu, ({ left }) => growth(left)),
  }
  const next = {
    read: median(cpu.map(({ taken }) => taken.read)),
    serving: median(cpu.map(({ taken }) => taken.serving)),
    turn: most(turns, ({ taken }) => taken.after.longest),
    work: most(turns, ({ taken }) => taken.after.work),
    cpu: median(cpu.map(({ taken }) => taken.whole.cpu)),
    peak: most(cpu, ({ taken }) => taken.whole.peak),
  }
  rows.old.push([
    count,
    ...[generations.bytes / MB, old.turn, old.turnIdle, old.work, old.workIdle].map(one),
    ...[old.cpu, old.cpuIdle, old.peak, old.growth].map(one),
  ])
  rows.next.push([count, ...[next.read, next.serving, next.turn, next.work, next.cpu, next.peak].map(one)])

  figures.add(`${name}: old process, work in one turn`, old.work, 'ms', '<=', 10)
  figures.add(`${name}: old process, longest turn with garbage collection and scheduler`, old.turn, 'ms')
  figures.add(`${name}: the same without an upgrade`, old.turnIdle, 'ms')
  figures.add(`${name}: old process, CPU time of the handoff`, old.cpu, 'ms', '<=', 20)
  figures.add(`${name}: old process, peak memory`, old.peak, 'MiB')
  // A small heap's noise is more than that.
  if (count >= 1_000_000) {
    figures.add(`${name}: old process, memory growth`, old.growth, '%', '<=', 5)
  } else figures.add(`${name}: old process, memory growth`, old.growth, '%')
  figures.add(`${name}: new process, work in one turn after Ready`, next.work, 'ms', '<=', 10)
  figures.add(`${name}: new process, Hello to state read`, next.read, 'ms')
  figures.add(`${name}: new process, Hello to Serving`, next.serving, 'ms')
  figures.add(`${name}: new process, peak memory`, next.peak, 'MiB')
  figures.add(`${name}: made in one bulk, seconds`, generations.bulk.ms / 1000, 's')
  figures.add(`${name}: made in one bulk, work in one turn`, generations.bulk.work, 'ms')
  figures.add(`${name}: log`, generations.bytes / MB, 'MiB')

  for (const codec of CODECS) {
    show(`${name}: one-shot ${codec}`)
    const heap = '--max-old-space-size=8192'
    const args = ['--expose-gc', heap, oneShot, codec, String(count)]
    /** @type {{ encode: number, decode: number, bytes: number, before: number, peak: number }} */
    const result = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
    const { encode, decode, bytes, before, peak } = result
    rows.codecs.push([count, codec, ...[encode, decode, bytes / MB, peak, growth(result)].map(one)])
    figures.add(`${name}: one-shot ${codec} holds the loop`, encode, 'ms')
    figures.add(`${name}: one-shot ${codec}, memory growth`, (100 * (peak - before)) / before, '%')
  }
}
rmSync(folder, { recursive: true })
progress.clear()
console.log(lines().join('\n'))
figures.finish(flags.json)
