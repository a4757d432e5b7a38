/**
 * `npm run mutants`: makes small mistakes in the sources, one at a time, runs the tests that come to that place, and
 * names those that no test notices. `--help` tells the options.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Chosen, withMutants } from './instrument.js'
import { Places } from './places.js'
import { Reach } from './reach.js'
import { runTests } from './trial.js'
import { ROOT, Workspace } from './workspace.js'

const PARTS = ['protocol', 'state', 'moving', 'holder', 'member', 'channel', 'kernel', 'listeners', 'relay']
const TESTS = ['test/unit', 'test/property', 'test/native', 'test/exploration', 'test/e2e']
const HELP = `npm run mutants -- [options] [parts or files of src; default: ${PARTS.join(' ')}]

  --count N      mutants to try (200)
  --seed TEXT    another choice of them
  --only TEXT    those whose name has this in it, all of them
  --budget MS    time of the tests that are tried on one mutant, by what they take unchanged (60000)
  --jobs N       mutants tried at a time (1)
  --reach        first find anew which tests come to which function: runs them once, as it does the first time
  --tests PATH   those in this folder or file only; may be repeated
  --json FILE    write what came of each
`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string', default: '200' },
    seed: { type: 'string', default: '' },
    only: { type: 'string' },
    budget: { type: 'string', default: '60000' },
    jobs: { type: 'string', default: '1' },
    reach: { type: 'boolean', default: false },
    tests: { type: 'string', multiple: true },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})

interface Outcome {
  readonly mutant: string
  readonly result: 'killed' | 'late' | 'survived' | 'not reached'
  /** The test that noticed. */
  readonly by?: string
  readonly tests: number
}

function sourcesIn(part: string): string[] {
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
function choose(files: readonly string[]): Chosen[] {
  const { count, seed, only } = values
  const all = files.flatMap(file => {
    const text = source(file)
    return new Places(text).mutants.map(mutant => {
      const facts = [seed, file, mutant.within, mutant.kind, text.slice(mutant.start, mutant.end)]
      return { ...mutant, file, rank: createHash('sha256').update(facts.join('\0')).digest('hex') }
    })
  })
  const ranked = all.toSorted((a, b) => (a.rank < b.rank ? -1 : 1))
  const some =
    only === undefined ? ranked.slice(0, Number(count)) : ranked.filter(each => nameOf(each).includes(only))
  return some.map((mutant, n) => ({ ...mutant, id: n + 1 }))
}

async function attempt(workspace: Workspace, mutant: Chosen, reach: Reach): Promise<Outcome> {
  const name = nameOf(mutant)
  let left = Number(values.budget)
  const tests = reach.testsOf(mutant.file, mutant.within).filter((test, n) => {
    left -= reach.msOf(test)
    return n === 0 || left >= 0
  })
  if (tests.length === 0) return { mutant: name, result: 'not reached', tests: 0 }
  workspace.switch({ mutant: mutant.id })
  const usual = tests.reduce((sum, test) => sum + reach.msOf(test), 0)
  const bail = !reach.hasUnsure(tests)
  const { files, late } = await runTests(workspace, tests, { bail, limitMs: 60_000 + 4 * usual })
  const by = files.flatMap(({ file, failed }) =>
    failed.filter(test => !reach.isUnsure(file, test)).map(test => `${file}: ${test}`),
  )[0]
  const facts = { mutant: name, tests: tests.length }
  if (late) return { ...facts, result: 'late' }
  return by === undefined ? { ...facts, result: 'survived' } : { ...facts, result: 'killed', by }
}

async function tryAll(chosen: readonly Chosen[], reach: Reach): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  const left = [...chosen]
  const worker = async () => {
    const workspace = new Workspace(new Set(chosen.map(({ file }) => file)), (text, file, runtime) =>
      withMutants(
        text,
        chosen.filter(each => each.file === file),
        runtime,
      ),
    )
    try {
      for (let mutant = left.shift(); mutant !== undefined; mutant = left.shift()) {
        const outcome = await attempt(workspace, mutant, reach)
        outcomes.push(outcome)
        const by = outcome.by === undefined ? '' : `\n    by ${outcome.by}`
        console.log(`${outcomes.length}/${chosen.length} ${outcome.result}: ${outcome.mutant}${by}`)
        if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(outcomes, null, 1))
      }
    } finally {
      workspace.close()
    }
  }
  await Promise.all(Array.from({ length: Number(values.jobs) }, worker))
  return outcomes
}

function report(outcomes: readonly Outcome[]): void {
  const alive = outcomes.filter(({ result }) => result === 'survived' || result === 'not reached')
  for (const { mutant, result } of alive) console.log(`${result}: ${mutant}`)
  for (const part of PARTS) {
    const own = outcomes.filter(({ mutant }) => mutant.startsWith(`src/${part}/`))
    const killed = own.length - own.filter(outcome => alive.includes(outcome)).length
    if (own.length > 0) console.log(`${part}: ${killed} of ${own.length}`)
  }
  const killed = outcomes.length - alive.length
  if (outcomes.length > 0)
    console.log(`killed ${killed} of ${outcomes.length} (${((100 * killed) / outcomes.length).toFixed(1)} %)`)
}

if (values.help) process.stdout.write(HELP)
else {
  const files = (positionals.length > 0 ? positionals : PARTS).flatMap(sourcesIn)
  const known = values.reach ? null : Reach.load()
  const reach = known ?? (await Reach.find(PARTS.flatMap(sourcesIn), values.tests ?? TESTS))
  report(await tryAll(choose(files), reach))
}
