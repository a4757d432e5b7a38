import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { STEPS } from '../../../tools/nightly.mjs'
import { STAGES } from '../../../tools/release/stages.mjs'

const ROOT = new URL('../../../', import.meta.url)
const FOLDER = new URL('.github/workflows/', ROOT)
const { scripts } = JSON.parse(readFileSync(new URL('package.json', ROOT), 'utf8'))

interface Step {
  uses?: string
  run?: string
  with?: Record<string, string>
}
interface Job {
  needs?: string | string[]
  permissions?: Record<string, string>
  'runs-on': string
  strategy?: { matrix: Record<string, string[]> }
  'timeout-minutes': number
  steps: Step[]
}

const textOf = (name: string) => readFileSync(new URL(name, FOLDER), 'utf8')
const jobsOf = (name: string) => parse(textOf(name)).jobs as Record<string, Job>
const needsOf = (job: Job) => [job.needs ?? []].flat()
const runsOf = (job: Job) => job.steps.flatMap(({ run }) => run?.split('\n') ?? [])

/** The steps of this job and of all jobs for which it waits. */
function before(jobs: Record<string, Job>, name: string): Set<string> {
  const found = new Set<string>()
  const visit = (one: string, path: string[]) => {
    expect(path, `${one} waits for itself`).not.toContain(one)
    found.add(one)
    for (const other of needsOf(jobs[one]!)) visit(other, [...path, one])
  }
  visit(name, [])
  return found
}

describe.each(readdirSync(FOLDER))('%s', name => {
  const jobs = jobsOf(name)

  it('has jobs that wait for jobs that there are, and never for themselves', () => {
    for (const [own, job] of Object.entries(jobs)) {
      for (const other of needsOf(job)) expect(jobs).toHaveProperty(other)
      before(jobs, own)
      expect(job['timeout-minutes']).toBeGreaterThan(0)
    }
  })

  it('runs what there is', () => {
    for (const line of Object.values(jobs).flatMap(runsOf)) {
      for (const [, script] of line.matchAll(/\bnpm run (?:--silent )?([\w:-]+)/g))
        expect(scripts, line).toHaveProperty([script!])
      for (const [, file] of line.matchAll(/(?:^|[\s/])((?:tools|\.ci)\/[\w./-]+)/g))
        expect(existsSync(new URL(file!, ROOT)), line).toBe(true)
    }
  })

  it('takes actions by their commit, with the version beside it', () => {
    for (const [, used] of textOf(name).matchAll(/uses: (.*)/g))
      expect(used).toMatch(/^actions\/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/)
  })

  it('may read, and has no secret; what a checkout brings is no credential', () => {
    expect(parse(textOf(name)).permissions).toEqual({ contents: 'read' })
    expect(textOf(name)).not.toContain('secrets.')
    for (const { uses, with: given } of Object.values(jobs).flatMap(({ steps }) => steps))
      if (uses?.startsWith('actions/checkout@')) expect(given).toEqual({ 'persist-credentials': false })
  })
})

describe('the nightly lane', () => {
  const job = Object.values(jobsOf('nightly.yml'))[0]!

  it('runs each step of its tool, in a job of its own', () => {
    expect(job.strategy?.matrix.step).toEqual(Object.keys(STEPS))
    expect(runsOf(job).at(-1)).toMatch(/^npm run nightly -- \$\{\{ matrix\.step \}\}$/)
  })

  it('runs by the clock', () => {
    expect(textOf('nightly.yml')).toMatch(/schedule:\n {4}- cron:/)
  })

  it('runs only existing scripts', () => {
    const missing = Object.values(STEPS).filter(({ script }) => !(script in scripts))
    // The tool says of a script that is not there that it is not.
    expect(missing.map(({ script }) => script).filter(script => script !== 'seeds')).toEqual([])
  })
})

describe('the release', () => {
  const jobs = jobsOf('release.yml')

  it('publishes when everything has been tested, in the one job that has an identity and installs nothing', () => {
    expect([...before(jobs, 'publish')].sort()).toEqual([
      'describe',
      'musl',
      'pack',
      'publish',
      'suite',
      'tarball',
    ])
    const withIdentity = Object.keys(jobs).filter(name => jobs[name]!.permissions?.['id-token'])
    expect(withIdentity).toEqual(['publish'])
    expect(jobs.publish).toMatchObject({ if: "github.ref_type == 'tag'", environment: 'npm' })
    expect(runsOf(jobs.publish!).join()).not.toMatch(/npm (ci|install)/)
  })

  it('hands the very tarball from job to job, and each looks at its hash before anything else is done with it', () => {
    const sha = /\$\{\{ needs\.pack\.outputs\.sha256 \}\}/
    for (const [name, job] of Object.entries(jobs)) {
      const downloads = job.steps.filter(({ uses }) => uses?.startsWith('actions/download-artifact@'))
      for (const { with: given } of downloads) {
        const uploaded = [...before(jobs, name)].flatMap(other =>
          jobs[other]!.steps.filter(({ uses }) => uses?.startsWith('actions/upload-artifact@')),
        )
        expect(uploaded.map(upload => upload.with?.name)).toContain(given?.name)
      }
      if (downloads.length === 0 || name === 'announce') continue
      const touching = runsOf(job).filter(run => run.includes('release/') || run.includes('npm run release'))
      expect(touching[0], name).toMatch(sha)
      for (const run of touching.filter(one => one.includes('npm run release')))
        expect(run).toMatch(new RegExp(`--sha256 ${sha.source}`))
    }
  })

  it('runs each of its stages, once in order on the way to publishing', () => {
    const told = (name: string) =>
      runsOf(jobs[name]!)
        .filter(run => run.includes('npm run release'))
        .flatMap(run =>
          run
            .replace(/.*npm run release --(?: --sha256 \$\{\{[^}]*\}\})?/, '')
            .trim()
            .split(' '),
        )
    const order = ['pack', 'tarball', 'describe', 'publish'].flatMap(told)
    // The one that publishes looks once more at what it is asked to publish.
    expect(order).toEqual(
      Object.keys(STAGES).flatMap(name => (name === 'publish' ? ['check', name] : [name])),
    )
  })

  it('tests the Nodes and the processors that are supported', () => {
    const matrix = (name: string) => jobs[name]!.strategy?.matrix
    const nodes = ['20.19', '22', '24', '26']
    expect(matrix('suite')).toEqual({ node: nodes })
    expect(matrix('tarball')).toEqual({ on: ['ubuntu-24.04', 'ubuntu-24.04-arm'], node: nodes })
    expect(matrix('musl')).toMatchObject({ on: ['ubuntu-24.04', 'ubuntu-24.04-arm'] })
  })
})
