import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { conditionsOf } from '../../lanes/conditions.js'
import { REASONS } from '../../lanes/reasons.js'
import { entriesWithFiles, OF_FILE, temporaryFolder } from '../../lanes/remains.js'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const REPORTER = join(ROOT, 'test/lanes/left-out.ts')

describe('each condition by which tests are left out', () => {
  // By their kinds: by their names a link is followed, and what the frameworks have installed leads back here without an end.
  const files = readdirSync(join(ROOT, 'test'), { recursive: true, withFileTypes: true })
    .map(({ parentPath, name }) => relative(join(ROOT, 'test'), join(parentPath, name)))
    .filter(
      name =>
        name.endsWith('.test.ts') &&
        !name.includes('node_modules') &&
        name !== 'unit/project/left-out.test.ts',
    )
  const used = files.flatMap(file =>
    conditionsOf(readFileSync(join(ROOT, 'test', file), 'utf8')).map(({ line, text }) => ({
      at: `${file}:${line}`,
      text,
    })),
  )

  it('has a reason in words, which the run prints', () => {
    expect(used.length).toBeGreaterThan(20)
    expect(used.filter(({ text }) => !(text in REASONS))).toEqual([])
  })

  it('exists: no reason is left of a test that is gone', () => {
    const texts = new Set(used.map(({ text }) => text))
    expect(Object.keys(REASONS).filter(text => !texts.has(text))).toEqual([])
  })
})

describe('a run that leaves tests out', () => {
  /** Runs a file with these tests in a process of its own, and not in the form of the run around it: that may be the one of root. */
  function runOf(tests: string, env: NodeJS.ProcessEnv = {}) {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-left-out-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const head = "import { describe, expect, it } from 'vitest'\nconst ROOT = false\nconst takesAny = true\n"
    writeFileSync(join(folder, 'some.test.ts'), `${head}it('runs', () => expect(1).toBe(1))\n${tests}`)
    writeFileSync(join(folder, 'vitest.config.mjs'), 'export default { test: { includeTaskLocation: true } }')
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs')
    const args = [vitest, 'run', '--root', folder, '--reporter', REPORTER]
    const run = spawnSync(process.execPath, args, {
      cwd: ROOT,
      encoding: 'utf8',
      env: { ...process.env, FD_BROKER_LEFT_OUT: '', NODE_PATH: join(ROOT, 'node_modules'), ...env },
    })
    return { code: run.status, text: run.stdout + run.stderr }
  }

  const SOME = `describe.runIf(ROOT)('of root', () => {
  it('one', () => {})
  it('two', () => {})
})
it.skipIf(takesAny)('three', () => {})
it('four', ({ skip }) => skip('there is no such tool'))
describe('of several', () => {
  it.runIf(ROOT)('five', () => {})
  it.skipIf(takesAny).each([
    'six',
  ])('%s', () => {})
})
`

  it('prints which they are, how many, and why', () => {
    const { code, text } = runOf(SOME)
    expect(text).toContain('Left out, 6 tests:\n')
    expect(text).toMatch(/some\.test\.ts: 3 tests: it needs root\n/)
    expect(text).toMatch(/some\.test\.ts: 2 tests: this kind of connection goes on with any descriptor\n/)
    expect(text).toMatch(/some\.test\.ts: 1 test: there is no such tool\n/)
    expect(code).toBe(0)
  })

  it('fails where only what is listed may be left out, and names what is not', () => {
    const { code, text } = runOf(SOME, { FD_BROKER_LEFT_OUT: 'listed' })
    expect(text.match(/NOT LISTED .*/g)?.map(line => line.replace(/\S*some/, 'some'))).toEqual([
      'NOT LISTED some.test.ts: 3 tests: it needs root',
      'NOT LISTED some.test.ts: 1 test: there is no such tool',
    ])
    expect(code).toBe(1)
  })

  it('passes there with what is listed alone', () => {
    const { code, text } = runOf("it.skipIf(takesAny)('three', () => {})\n", { FD_BROKER_LEFT_OUT: 'listed' })
    expect(text).toContain('Left out, 1 test')
    expect(code).toBe(0)
  })
})

it('the folder of a file whose tests are all left out is no remainder of the run, and what is in it is one', () => {
  const run = temporaryFolder('fdb-run-')
  onTestFinished(() => rmSync(run, { recursive: true, force: true }))
  const [, used] = [mkdtempSync(join(run, OF_FILE)), mkdtempSync(join(run, OF_FILE))]
  expect(entriesWithFiles(run)).toEqual([])
  mkdirSync(join(used, 'shop'))
  writeFileSync(join(run, 'log'), '')
  expect(entriesWithFiles(run).sort()).toEqual([`${relative(run, used)}/shop`, 'log'])
})
