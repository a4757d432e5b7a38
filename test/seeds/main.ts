/** `npm run seeds`: switches on each mistake of the list alone, runs its tests, and prints the score by room. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { runTests } from '../mutants/test-run.js'
import { ROOT, Workspace } from '../mutants/workspace.js'
import { SEEDS } from './list.js'
import { isStale, type Numbered, numbered, switchable } from './switchable.js'

const HELP = `npm run seeds -- [options] [rooms; default: all]

  --jobs N       seeds tried at a time (1)
  --limit MS     a trial that takes longer is late (90000)
  --only TEXT    those whose name has this in it
  --json FILE    write what came of each
  --resume FILE  the same, and leave out those that the file says were noticed, or late
  --least N      exit with 1 when fewer of a hundred are noticed (0)
  --trust        do not run the tests once without a seed first
  --list         name the seeds, and try none
`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    jobs: { type: 'string', default: '1' },
    limit: { type: 'string', default: '90000' },
    only: { type: 'string' },
    json: { type: 'string' },
    resume: { type: 'string' },
    least: { type: 'string', default: '0' },
    trust: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

interface Outcome {
  readonly room: string
  readonly name: string
  /** `late`: the tests did not end. `stale`: the text has gone. */
  readonly result: 'noticed' | 'late' | 'survived' | 'stale'
  readonly by?: string
}

function nameOf({ file, find, put }: Numbered): string {
  const short = (text: string) => text.replace(/\s+/g, ' ').trim().slice(0, 100)
  return `${file}: ${short(find)} => ${short(put)}`
}

async function attempt(workspace: Workspace, seed: Numbered): Promise<Outcome> {
  const facts = { room: seed.room, name: nameOf(seed) }
  const tests = seed.tests.filter(test => existsSync(join(ROOT, test)))
  if (tests.length === 0) return { ...facts, result: 'survived' }
  workspace.switch({ mutant: seed.id })
  const { files, late } = await runTests(workspace, tests, {
    bail: true,
    limitMs: Number(values.limit),
    mutant: seed.id,
  })
  if (late) return { ...facts, result: 'late' }
  for (const { file, failed } of files)
    if (failed[0] !== undefined) return { ...facts, result: 'noticed', by: `${file}: ${failed[0].name}` }
  return { ...facts, result: 'survived' }
}

/** Tests that fail without any seed would notice everything. */
async function refuseFailing(workspace: Workspace, seeds: readonly Numbered[]): Promise<void> {
  const tests = [...new Set(seeds.flatMap(seed => seed.tests))].filter(test => existsSync(join(ROOT, test)))
  workspace.switch({})
  const { files, late } = await runTests(workspace, tests, { bail: false, workers: 2, limitMs: 30 * 60_000 })
  const failing = files.flatMap(({ file, failed }) =>
    failed.map(({ name, why }) => `${file}: ${name}: ${why}`),
  )
  if (late) failing.push('the tests did not end')
  for (const line of failing) console.log(`fails without a seed: ${line}`)
  if (failing.length > 0) process.exitCode = 1
}

async function tryAll(seeds: readonly Numbered[]): Promise<Outcome[]> {
  const json = values.resume ?? values.json
  const before: Outcome[] =
    values.resume && existsSync(values.resume) ? JSON.parse(readFileSync(values.resume, 'utf8')) : []
  const kept = before.filter(
    ({ result, name }) =>
      (result === 'noticed' || result === 'late') && seeds.some(seed => nameOf(seed) === name),
  )
  const outcomes = [...kept]
  const rest = seeds.filter(seed => !kept.some(({ name }) => name === nameOf(seed)))
  for (const seed of rest.filter(isStale))
    outcomes.push({ room: seed.room, name: nameOf(seed), result: 'stale' })
  const left = rest.filter(seed => !isStale(seed))
  const all = [...left]
  const worker = async (first: boolean) => {
    const workspace = new Workspace(new Set(all.map(({ file }) => file)), (text, file, runtime) =>
      switchable(text, file, runtime, all),
    )
    try {
      if (first && !values.trust) await refuseFailing(workspace, all)
      for (let seed = left.shift(); seed !== undefined; seed = left.shift()) {
        const outcome = await attempt(workspace, seed)
        outcomes.push(outcome)
        console.log(
          `${outcomes.length}/${seeds.length} ${outcome.result}: ${outcome.name}${outcome.by ? `\n    by ${outcome.by}` : ''}`,
        )
        if (json !== undefined) writeFileSync(json, JSON.stringify(outcomes, null, 1))
      }
    } finally {
      workspace.close()
    }
  }
  if (left.length > 0)
    await Promise.all(Array.from({ length: Number(values.jobs) }, (_, at) => worker(at === 0)))
  return outcomes
}

function report(outcomes: readonly Outcome[]): void {
  for (const { name, result } of outcomes) if (result !== 'noticed') console.log(`${result}: ${name}`)
  for (const room of new Set(outcomes.map(outcome => outcome.room)))
    console.log(`${room}: ${summary(outcomes.filter(outcome => outcome.room === room))}`)
  console.log(`all: ${summary(outcomes)}`)
  if (shareOf(outcomes) < Number(values.least)) process.exitCode = 1
}

/** A trial that is late counts for nothing: the machine may be slow. */
function shareOf(outcomes: readonly Outcome[]): number {
  const noticed = outcomes.filter(({ result }) => result === 'noticed').length
  return (100 * noticed) / Math.max(1, outcomes.length)
}

function summary(outcomes: readonly Outcome[]): string {
  const count = (what: Outcome['result']) => outcomes.filter(({ result }) => result === what).length
  const parts = (['noticed', 'late', 'survived', 'stale'] as const).map(what => `${count(what)} ${what}`)
  return `${shareOf(outcomes).toFixed(1)} % of ${outcomes.length} (${parts.join(', ')})`
}

const { only } = values
const chosen = numbered(SEEDS).filter(
  seed =>
    (positionals.length === 0 || positionals.includes(seed.room)) &&
    (only === undefined || nameOf(seed).includes(only)),
)
if (values.help) process.stdout.write(HELP)
else if (values.list) for (const seed of chosen) console.log(`${seed.room}: ${nameOf(seed)}`)
else report(await tryAll(chosen))
