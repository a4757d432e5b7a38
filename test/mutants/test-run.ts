import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { endMarked } from '../processes/marked.js'
import type { Workspace } from './workspace.js'

export interface FileResult {
  readonly file: string
  readonly ms: number
  /** The tests that failed; of a file that did not load, the file. */
  readonly failed: readonly FailedTest[]
}

export interface FailedTest {
  readonly name: string
  /** The first line of what it said. */
  readonly why: string
}

export interface TestRun {
  readonly files: readonly FileResult[]
  /** The tests did not end in their time. */
  readonly late: boolean
}

interface JsonResult {
  testResults: {
    name: string
    status: string
    startTime: number
    endTime: number
    message?: string
    assertionResults: { status: string; fullName: string; failureMessages?: string[] }[]
  }[]
}

/** Runs test files in a workspace; with `bail` up to the first test that fails. Whatever they started has ended then. */
export async function runTests(
  { folder }: Workspace,
  files: readonly string[],
  options: { bail: boolean; workers?: number; limitMs: number; show?: boolean; mutant?: number },
): Promise<TestRun> {
  const mark = randomUUID()
  const output = join(folder, `results-${mark}.json`)
  const args = ['run', '--config', 'vitest.mutants.config.ts', '--reporter=json', `--outputFile=${output}`]
  if (options.show) args.push('--reporter=default')
  const vitest = join(folder, 'node_modules/vitest/vitest.mjs')
  const { workers = 1 } = options
  const child = spawn(process.execPath, [vitest, ...args, `--maxWorkers=${workers}`, ...files], {
    cwd: folder,
    env: {
      ...process.env,
      FDB_MUTANT_TRIAL: mark,
      FDB_BAIL: options.bail ? '1' : '0',
      ...(options.mutant !== undefined && { FDB_MUTANT: `${options.mutant}` }),
    },
    stdio: ['ignore', options.show ? 'inherit' : 'ignore', 'ignore'],
  })
  let late = false
  const limit = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
  }, options.limitMs)
  await new Promise(resolve => child.once('exit', resolve))
  clearTimeout(limit)
  await endMarked(mark)
  return { files: late ? [] : resultsOf(output, folder), late }
}

function resultsOf(output: string, folder: string): FileResult[] {
  let results: JsonResult['testResults']
  try {
    results = (JSON.parse(readFileSync(output, 'utf8')) as JsonResult).testResults
  } catch {
    return [{ file: '', ms: 0, failed: [{ name: 'the run broke off', why: '' }] }]
  }
  return results.map(({ name, status, startTime, endTime, message, assertionResults }) => {
    const file = relative(folder, name)
    const failed = assertionResults
      .filter(each => each.status === 'failed')
      .map(({ fullName, failureMessages }) => ({ name: fullName, why: firstLine(failureMessages?.[0]) }))
    if (status === 'failed' && failed.length === 0) failed.push({ name: file, why: firstLine(message) })
    return { file, ms: endTime - startTime, failed }
  })
}

function firstLine(text = ''): string {
  return text.split('\n', 1)[0]!.slice(0, 300)
}
