import { readFileSync } from 'node:fs'
import { relative } from 'node:path'
import type { Reporter, TestCase, TestModule, TestSuite } from 'vitest/node'
import { conditionAt } from './conditions.js'
import { NOTES_OF_ROOT, REASONS } from './reasons.js'

/** Tests of one file that were left out for one reason. */
interface LeftOut {
  readonly file: string
  readonly reason: string
  /** Also where root runs the suite with all tools. */
  readonly always: boolean
  tests: number
}

/**
 * Prints at the end of a run what was left out of it, and why. With `FD_BROKER_LEFT_OUT=listed`, which is for root with all tools, the run fails
 * by whatever `reasons.ts` does not list for that.
 */
export default class LeftOutReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const all = leftOutOf(modules)
    if (all.length === 0) return
    const strict = process.env.FD_BROKER_LEFT_OUT === 'listed'
    const sum = all.reduce((tests, each) => tests + each.tests, 0)
    const lines = all.map(
      ({ file, reason, always, tests }) =>
        `  ${strict && !always ? 'NOT LISTED ' : ''}${file}: ${tests} ${tests === 1 ? 'test' : 'tests'}: ${reason}`,
    )
    process.stdout.write(`\nLeft out, ${sum} tests:\n${lines.join('\n')}\n`)
    if (strict && all.some(({ always }) => !always)) process.exitCode = 1
  }
}

/** By file and reason. */
export function leftOutOf(modules: readonly TestModule[]): LeftOut[] {
  const found = new Map<string, LeftOut>()
  for (const module of modules) {
    const file = relative(process.cwd(), module.moduleId)
    for (const test of module.children.allTests('skipped')) {
      const why = reasonOf(test)
      const key = `${file} ${why.reason}`
      const known = found.get(key) ?? { file, ...why, tests: 0 }
      known.tests++
      found.set(key, known)
    }
  }
  return [...found.values()].sort((a, b) => a.file.localeCompare(b.file))
}

function reasonOf(test: TestCase): { reason: string; always: boolean } {
  const result = test.result()
  const note = result.state === 'skipped' ? result.note : undefined
  if (note !== undefined) return { reason: note, always: NOTES_OF_ROOT.includes(note) }
  const source = readFileSync(test.module.moduleId, 'utf8')
  const condition = leftOutAround(test)
    .map(({ location }) => (location ? conditionAt(source, location.line) : null))
    .find(each => each !== null)
  const known = condition === undefined ? undefined : REASONS[condition]
  return { reason: known?.text ?? condition ?? 'not told', always: known?.always === true }
}

/**
 * Returns the test and the suites around it that were left out as a whole, the outermost first. A suite takes along all that is in it; one
 * without a condition was left out because each of its tests was.
 */
function leftOutAround(test: TestCase): (TestCase | TestSuite)[] {
  const found: (TestCase | TestSuite)[] = [test]
  for (let up = test.parent; up.type === 'suite'; up = up.parent)
    if (up.options.mode === 'skip') found.unshift(up)
  return found
}
