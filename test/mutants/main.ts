/**
 * `npm run mutants`: makes small mistakes in the sources, one at a time, runs the tests that come to that place, and
 * names those that no test notices. `--help` tells the options.
 */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Chosen, withMutants } from './instrument.js'
import { interval } from './interval.js'
import { nativePlaces, withNativeMutants } from './native.js'
import { Places } from './places.js'
import { Reach } from './reach.js'
import { byKey, inTurn, sample } from './sample.js'
import { runTests } from './test-run.js'
import { ROOT, Workspace } from './workspace.js'

const PARTS = [...foldersOf('src').filter(part => part !== 'proto'), 'native']
const DRIVERS = PARTS.filter(part =>
  /^(?:auto|connections|daemon|holder|member|operator|os|run|state|versions|wire|workers)$/.test(part),
)
const TESTS = ['test/unit', 'test/property', 'test/native', 'test/exploration', 'test/e2e']
const HELP = `npm run mutants -- [options] [parts or files of src; default: all: ${PARTS.join(' ')}]

  --semantic     mistakes of drivers (an effect that is not awaited, made twice, in the wrong order or not undone, a check that is
                 skipped, an event that is ignored); default parts: ${DRIVERS.join(' ')}
  --count N      mutants to try (200)
  --seed TEXT    the same choice as a run that printed this seed; default: a fresh one
  --only TEXT    those whose name has this in it, all of them that one source can have
  --budget MS    time of the tests that are tried on one mutant, by what they take unchanged (60000)
  --jobs N       mutants tried at a time (1)
  --patience N   a trial is late after N times what its tests take unchanged, and a minute (4)
  --reach        first find anew which tests come to which function: runs them once, as it does the first time
  --tests PATH   those in this folder or file only; may be repeated
  --list         name the mutants, and try none
  --json FILE    write what came of each
  --resume FILE  the same, and leave out those of which that file says what came of them
  --again WHAT   with --resume, try these again: survived, late, ...; may be repeated
`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string', default: '200' },
    seed: { type: 'string', default: randomBytes(4).toString('hex') },
    semantic: { type: 'boolean', default: false },
    only: { type: 'string' },
    budget: { type: 'string', default: '60000' },
    jobs: { type: 'string', default: '1' },
    reach: { type: 'boolean', default: false },
    tests: { type: 'string', multiple: true },
    list: { type: 'boolean', default: false },
    json: { type: 'string' },
    resume: { type: 'string' },
    again: { type: 'string', multiple: true, default: [] },
    patience: { type: 'string', default: '4' },
    help: { type: 'boolean', default: false },
  },
})

/** The outcome of one mutant. `late`: its tests did not end; a person judges whether by the mistake or on a slow machine. */
interface Outcome {
  /** Tells it from all others as long as the code around it is the same. */
  readonly key: string
  readonly mutant: string
  readonly result: 'killed' | 'late' | 'survived' | 'not reached'
  /** The test that noticed, and what it said. */
  readonly by?: string
  readonly why?: string
  readonly tests: number
}

/** A mutant that was chosen, and its {@link Outcome.key}. */
interface Ranked extends Chosen {
  readonly key: string
}

function nativeSources(): string[] {
  return readdirSync(join(ROOT, 'native'))
    .filter(name => name.endsWith('.c'))
    .map(name => `native/${name}`)
}

/** Folders, sorted. */
function foldersOf(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true })
    .filter(entry => entry.isDirectory())
    .map(({ name }) => name)
    .toSorted()
}

function sourcesIn(part: string): string[] {
  if (part.endsWith('.c')) return [part.startsWith('native/') ? part : `native/${part}`]
  if (part === 'native') return nativeSources()
  if (part.endsWith('.ts')) return [part.startsWith('src/') ? part : `src/${part}`]
  return readdirSync(join(ROOT, 'src', part), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => `src/${part}/${name}`)
}

const source = (file: string) => readFileSync(join(ROOT, file), 'utf8')

function nameOf({ file, start, end, within, kind }: Omit<Chosen, 'id'>): string {
  const text = source(file)
  const line = text.slice(0, start).split('\n').length
  const what = text.slice(start, end).replace(/\s+/g, ' ')
  return `${file}:${line} ${within}: ${kind}: ${what.length > 90 ? `${what.slice(0, 90)}…` : what}`
}

/** The same ones as long as the code around them is the same. */
function choose(files: readonly string[]): Ranked[] {
  const { count, seed, only } = values
  const all = files.flatMap(file => {
    const text = source(file)
    const twins = new Map<string, number>()
    const mutants = file.endsWith('.c')
      ? nativePlaces(text)
      : new Places(text, values.semantic ? 'semantic' : 'small').mutants
    return mutants.map(mutant => {
      const facts = [seed, file, mutant.within, mutant.kind, text.slice(mutant.start, mutant.end)]
      const rank = createHash('sha256').update(facts.join('\0')).digest('hex')
      const before = twins.get(rank) ?? 0
      twins.set(rank, before + 1)
      return { ...mutant, file, key: before === 0 ? rank : `${rank} ${before}` }
    })
  })
  const ranked = values.semantic ? inTurn(all) : byKey(all)
  const some =
    only === undefined
      ? sample(ranked, Number(count))
      : sample(
          ranked.filter(each => nameOf(each).includes(only)),
          ranked.length,
        )
  return some.map((mutant, n) => ({ ...mutant, id: n + 1 }))
}

async function attempt(workspace: Workspace, mutant: Ranked, reach: Reach): Promise<Outcome> {
  let left = Number(values.budget)
  const reached = reach.testsOf(mutant.file, mutant.within).filter(isWanted)
  const tests = reached.filter((test, n) => {
    left -= reach.msOf(test)
    return n === 0 || left >= 0
  })
  const facts = { key: mutant.key, mutant: nameOf(mutant), tests: tests.length }
  if (tests.length === 0) return { ...facts, result: 'not reached' }
  workspace.switch({ mutant: mutant.id })
  const usual = tests.reduce((sum, test) => sum + reach.msOf(test), 0)
  const bail = !reach.hasUnsure(tests)
  const limitMs = 60_000 + Number(values.patience) * usual
  const { files, late } = await runTests(workspace, tests, { bail, limitMs, mutant: mutant.id })
  if (late) return { ...facts, result: 'late' }
  for (const { file, failed } of files)
    for (const { name, why } of failed)
      if (!reach.isUnsure(file, name)) return { ...facts, result: 'killed', by: `${file}: ${name}`, why }
  return { ...facts, result: 'survived' }
}

function isWanted(test: string): boolean {
  return values.tests?.some(path => test === path || test.startsWith(path)) ?? true
}

/** Returns the earlier outcomes of the chosen mutants. */
function before(chosen: readonly Ranked[]): Outcome[] {
  const file = values.resume
  if (file === undefined || !existsSync(file)) return []
  const known = JSON.parse(readFileSync(file, 'utf8')) as Outcome[]
  const keys = new Map(chosen.map(mutant => [mutant.key, mutant]))
  return known
    .filter(({ key, result }) => keys.has(key) && !values.again.includes(result))
    .map(outcome => ({ ...outcome, mutant: nameOf(keys.get(outcome.key)!) }))
}

async function tryAll(chosen: readonly Ranked[], reach: Reach): Promise<Outcome[]> {
  const outcomes = before(chosen)
  const left = chosen.filter(({ key }) => outcomes.every(outcome => outcome.key !== key))
  if (left.length === 0) return outcomes
  const json = values.resume ?? values.json
  const worker = async () => {
    const workspace = new Workspace(new Set(chosen.map(({ file }) => file)), (text, file, runtime) => {
      const own = chosen.filter(each => each.file === file)
      return file.endsWith('.c') ? withNativeMutants(text, own) : withMutants(text, own, runtime)
    })
    try {
      for (let mutant = left.shift(); mutant !== undefined; mutant = left.shift()) {
        const outcome = await attempt(workspace, mutant, reach)
        outcomes.push(outcome)
        const by = outcome.by === undefined ? '' : `\n    by ${outcome.by}`
        console.log(`${outcomes.length}/${chosen.length} ${outcome.result}: ${outcome.mutant}${by}`)
        if (json !== undefined) writeFileSync(json, JSON.stringify(outcomes, null, 1))
      }
    } finally {
      workspace.close()
    }
  }
  await Promise.all(Array.from({ length: Number(values.jobs) }, worker))
  return outcomes
}

function report(outcomes: readonly Outcome[]): void {
  for (const { mutant, result } of outcomes) if (result !== 'killed') console.log(`${result}: ${mutant}`)
  for (const part of PARTS) {
    const own = outcomes.filter(({ mutant }) =>
      mutant.startsWith(part === 'native' ? 'native/' : `src/${part}/`),
    )
    if (own.length > 0) console.log(`${part}: ${summary(own)}`)
  }
  if (outcomes.length > 0) console.log(summary(outcomes))
}

function summary(outcomes: readonly Outcome[]): string {
  const count = (what: Outcome['result']) => outcomes.filter(({ result }) => result === what).length
  const [killed, late] = [count('killed'), count('late')]
  const percent = (part: number) => `${(100 * part).toFixed(1)} %`
  const [least, most] = interval(killed, outcomes.length)
  const range = `95 % interval ${percent(least)} to ${percent(most)}`
  return `killed ${killed} of ${outcomes.length} (${percent(killed / outcomes.length)}; ${range})${late > 0 ? `, and ${late} late` : ''}`
}

const files = (positionals.length > 0 ? positionals : values.semantic ? DRIVERS : PARTS).flatMap(sourcesIn)
if (values.help) process.stdout.write(HELP)
else if (values.list) for (const mutant of choose(files)) console.log(nameOf(mutant))
else {
  const known = values.reach ? null : Reach.load()
  const reach =
    known ??
    (await Reach.find(PARTS.filter(part => part !== 'native').flatMap(sourcesIn), values.tests ?? TESTS))
  console.log(`seed ${values.seed}`)
  report(await tryAll(choose(files), reach))
}
