// `npm run simulate`: runs the drivers of src on a simulated kernel, and holds them to the promises of the library.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Progress } from '../../bench/report.mjs'
import type { Edit } from './bundle.js'
import { type Code, load } from './globals.js'
import {
  type PointsResult,
  playPoints,
  pointsText,
  type Share,
  scenariosOf,
  sumOf,
  tellPoint,
} from './points/command.js'
import { ALL_SCENARIOS, REPEATED } from './points/scenarios.js'
import { collectUnhandled, runSeed, scheduleText, shortest } from './run-seed.js'
import { ALL_KINDS, anyScheduleOf } from './scenario/any.js'

const HELP = `npm run simulate -- [options]

  --seconds N    run fresh seeds for this time, on all processors (60)
  --runs N       run so many seeds instead, from the first one
  --from N       the first seed; default: a random one
  --seed N       run this seed only, and print its story
  --kind KIND    only this kind of trouble: ${ALL_KINDS.join(', ')}
  --hosting H    embedded or daemon; default: each eighth seed has workers, each eighth run, each third other one a daemon
  --state-file   each service has a state file; default: each fourth, and those whose trouble it is
  --findings N   end after so many wrong seeds in a process (20)
  --jobs N       processes; default: one for each processor; 1: no other than this one
  --points NAMES let each call of these scenarios fail in each way, one in each run: ${ALL_SCENARIOS.join(', ')}, or every
  --share S      of these points: all (default); sites: each trouble once at each place of src, for each process; places: each call fails once there with each error; gate: in one of the scenarios
  --twice        repeat the upgrade of each of these points, with the same trouble at the same call (${REPEATED.join(', ')})
  --point P      play this point only, and print its story
  --edits FILE   seed defects: a list of [file below src, from, to] in JSON
  --json         print the result as JSON
`

const { values: given } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    runs: { type: 'string' },
    from: { type: 'string' },
    seed: { type: 'string' },
    kind: { type: 'string' },
    hosting: { type: 'string' },
    'state-file': { type: 'boolean' },
    findings: { type: 'string', default: '20' },
    jobs: { type: 'string' },
    points: { type: 'string' },
    point: { type: 'string' },
    share: { type: 'string', default: 'all' },
    twice: { type: 'boolean', default: false },
    edits: { type: 'string' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

interface Finding {
  readonly seed: number
  readonly schedule: string
  readonly wrong: readonly string[]
}

interface Result {
  readonly from: number
  runs: number
  calls: number
  /** Processor time in seconds. */
  cpu: number
  findings: Finding[]
}

/** How often a process tells its progress. */
const REPORT_MS = 200

/** The progress of one process. */
interface Done {
  readonly runs: number
  readonly wrong: number
}

const hosting = (['embedded', 'daemon'] as const).find(each => each === given.hosting)
const kind = ALL_KINDS.find(each => each === given.kind)
const wanted = { kind, hosting, stateFile: given['state-file'] }

async function story(code: Code, seed: number): Promise<boolean> {
  const schedule = anyScheduleOf(seed, wanted)
  const { world, wrong } = await runSeed(code, seed, schedule, true)
  process.stdout.write(`${world.story.join('\n')}\nseed ${seed}, ${scheduleText(schedule)}\n`)
  for (const each of wrong) process.stdout.write(`WRONG: ${each}\n`)
  if (wrong.length > 0) {
    const least = await shortest(code, seed, schedule)
    process.stdout.write(`the shortest schedule that shows it: ${scheduleText(least)}\n`)
  }
  return wrong.length === 0
}

/** Runs the seeds `from`, `from + step`, … */
async function campaign(
  code: Code,
  from: number,
  step: number,
  report: (done: Done) => void,
): Promise<Result> {
  const until = performance.now() + Number(given.seconds) * 1_000
  const runs = given.runs === undefined ? Number.POSITIVE_INFINITY : Math.ceil(Number(given.runs) / step)
  const result: Result = { from, runs: 0, calls: 0, cpu: 0, findings: [] }
  Error.stackTraceLimit = 0
  const before = process.cpuUsage()
  let reported = performance.now()
  const goesOn = () =>
    result.findings.length < Number(given.findings) &&
    (given.runs === undefined ? performance.now() < until : result.runs < runs)
  for (let seed = from; goesOn(); seed += step) {
    const schedule = anyScheduleOf(seed, wanted)
    result.runs++
    if (performance.now() > reported + REPORT_MS) {
      reported = performance.now()
      report({ runs: result.runs, wrong: result.findings.length })
    }
    try {
      const { world, wrong } = await runSeed(code, seed, schedule)
      result.calls += world.calls
      if (wrong.length === 0) continue
      const least = await shortest(code, seed, schedule)
      result.findings.push({ seed, schedule: scheduleText(least), wrong })
    } catch (error) {
      // The run itself fails, so that the campaign has no verdict on this seed, and goes on.
      const wrong = [`the simulation fails: ${error instanceof Error ? error.message : String(error)}`]
      result.findings.push({ seed, schedule: scheduleText(schedule), wrong })
    }
  }
  const { user, system } = process.cpuUsage(before)
  result.cpu = (user + system) / 1e6
  return result
}

const progress = new Progress()
const startedAt = performance.now()

function show(all: readonly Done[]): void {
  const sum = (of: (done: Done) => number) => all.reduce((total, done) => total + of(done), 0)
  const seconds = Math.round((performance.now() - startedAt) / 1_000)
  const end =
    given.runs === undefined ? `${seconds} of ${given.seconds} s` : `${seconds} s, of ${given.runs} runs`
  progress.show([`simulating: ${sum(({ runs }) => runs)} runs, ${sum(({ wrong }) => wrong)} wrong, ${end}`])
}

/** Starts several processes, each with its share. Returns their results. */
function inProcesses<R, M>(
  jobs: number,
  shareOf: (job: number) => object,
  told: (job: number, now: M) => void,
): Promise<R[]> {
  const parts = Array.from({ length: jobs }, async (_, job) => {
    const env = { ...process.env, SIMULATE_JOB: JSON.stringify(shareOf(job)) }
    const own = fileURLToPath(import.meta.url)
    const args = ['--import', 'tsx', own, ...process.argv.slice(2), '--json', '--jobs', '1']
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
    child.on('message', (now: M) => told(job, now))
    let output = ''
    for await (const data of child.stdout!) output += data
    return JSON.parse(output) as R
  })
  return Promise.all(parts)
}

/** The same in several processes, each with its share of the seeds. */
async function inParallel(from: number, jobs: number): Promise<Result> {
  const done: Done[] = []
  const results = await inProcesses<Result, Done>(
    jobs,
    job => ({ from: from + job, step: jobs }),
    (job, now) => {
      done[job] = now
      show(Object.values(done))
    },
  )
  const sum = (of: (result: Result) => number) => results.reduce((total, result) => total + of(result), 0)
  return {
    from,
    runs: sum(({ runs }) => runs),
    calls: sum(({ calls }) => calls),
    cpu: sum(({ cpu }) => cpu),
    findings: results.flatMap(({ findings }) => findings),
  }
}

function print({ from, runs, calls, cpu, findings }: Result): void {
  const more = `${kind === undefined ? '' : ` --kind ${kind}`}${hosting === undefined ? '' : ` --hosting ${hosting}`}${given['state-file'] ? ' --state-file' : ''}`
  for (const { seed, schedule, wrong } of findings)
    process.stdout.write(
      `WRONG, seed ${seed}: ${wrong.join('; ')}\n  ${schedule}\n  npm run simulate -- --seed ${seed}${more}\n`,
    )
  process.stdout.write(
    `${runs} runs from seed ${from}, ${findings.length} wrong; ${Math.round(calls / cpu)} kernel calls a second of processor time, ${((cpu * 1_000) / runs).toFixed(1)} ms a run\n`,
  )
}

function loaded(edits: readonly Edit[]): Promise<Code> {
  collectUnhandled()
  return load(edits)
}

/** Plays the points of scenarios. Returns whether all promises were kept. */
async function points(names: string, edits: readonly Edit[], jobs: number): Promise<boolean> {
  const which = (['gate', 'places', 'sites'] as const).find(each => each === given.share) ?? 'all'
  const shareOf = (part: number): Share => ({
    ...{ scenarios: scenariosOf(names), which, part, parts: jobs },
    twice: given.twice,
  })
  const job = process.env.SIMULATE_JOB
  if (job !== undefined) {
    const share = JSON.parse(job) as Share
    const result = await playPoints(await loaded(edits), share, now => process.send?.(now))
    process.stdout.write(JSON.stringify(result))
    return true
  }
  const all =
    jobs === 1
      ? [await playPoints(await loaded(edits), shareOf(0), now => progress.show([now]))]
      : await inProcesses<PointsResult, string>(jobs, shareOf, (at, now) => {
          if (at === 0) progress.show([now])
        })
  progress.clear()
  const result = sumOf(all)
  process.stdout.write(pointsText(result))
  return result.wrong.length === 0
}

async function main(): Promise<void> {
  if (given.help) {
    process.stdout.write(HELP)
    return
  }
  const edits = given.edits === undefined ? [] : (JSON.parse(readFileSync(given.edits, 'utf8')) as Edit[])
  const jobs = Number(given.jobs ?? availableParallelism())
  if (given.point !== undefined) {
    if (!(await tellPoint(await loaded(edits), given.point))) process.exitCode = 1
    return
  }
  if (given.points !== undefined) {
    if (!(await points(given.points, edits, jobs))) process.exitCode = 1
    return
  }
  const job = process.env.SIMULATE_JOB
  if (given.seed !== undefined) {
    if (!(await story(await loaded(edits), Number(given.seed)))) process.exitCode = 1
    return
  }
  if (job !== undefined) {
    const { from, step } = JSON.parse(job) as { from: number; step: number }
    process.stdout.write(
      JSON.stringify(await campaign(await loaded(edits), from, step, now => process.send?.(now))),
    )
    return
  }
  const from = Number(given.from ?? Math.floor(Math.random() * 1e9))
  const result = await (jobs === 1
    ? campaign(await loaded(edits), from, 1, now => show([now]))
    : inParallel(from, jobs))
  progress.clear()
  if (given.json) process.stdout.write(JSON.stringify(result))
  else print(result)
  if (result.findings.length > 0) process.exitCode = 1
}

await main()
