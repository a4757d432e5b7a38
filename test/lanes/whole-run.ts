import { randomUUID } from 'node:crypto'
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { NIGHTLY } from './lane.js'
import { entriesWithFiles, processesWith, temporaryFolder } from './remains.js'

/** A limit, not a pause: for what ends by itself when its test is over. */
const MOST_MS = 20_000

/** The folder that test files share (test/processes/bundled.ts). */
const SHARED = 'shared'

/**
 * The folder of a `fd-broker run` that was killed: the next one to start removes it, and the last one of all has none behind it. And what test files
 * share: the run removes it with its own folder.
 */
const MAY_STAY = /^(fd-broker-|shared$)/

/**
 * A run of the suite leaves no process and no entry of the temporary folder: end-to-end tests, whose processes outlive a file's hooks
 * for a moment, are looked at together when all are over.
 */
export default function setup(project: TestProject): (() => Promise<void>) | undefined {
  // Once, and not for each project of the suite.
  if (process.env.FDB_TEST_RUN !== undefined) return undefined
  // Node reads and decodes the whole file at each start: 94 ms of CPU in place of 36, for thousands of processes that ask no host outside.
  if (!NIGHTLY) delete process.env.NODE_EXTRA_CA_CERTS
  const shared = process.env.TMPDIR
  const folder = temporaryFolder('r-')
  const mark = `FDB_TEST_RUN=${randomUUID()}`
  process.env.FDB_TEST_RUN = mark.split('=')[1]
  process.env.TMPDIR = folder
  const files = join(folder, SHARED)
  process.env.FDB_TEST_SHARED = files
  mkdirSync(files)
  // A source of them may have changed.
  project.onTestsRerun(() => {
    for (const name of readdirSync(files)) rmSync(join(files, name))
  })
  return async () => {
    if (shared === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = shared
    const end = performance.now() + MOST_MS
    const remainder = () => [
      ...processesWith(mark).map(one => `the process ${one}`),
      ...entriesWithFiles(folder)
        .filter(name => !MAY_STAY.test(name))
        .map(name => `${name} in the temporary folder`),
    ]
    let left = remainder()
    while (left.length > 0 && performance.now() < end) {
      await new Promise(resolve => setTimeout(resolve, 100))
      left = remainder()
    }
    rmSync(folder, { recursive: true, force: true })
    if (left.length === 0) return
    // The runner prints what a teardown throws, and ends with 0.
    process.exitCode = 1
    throw new Error(`the tests leave:\n${left.join('\n')}`)
  }
}
