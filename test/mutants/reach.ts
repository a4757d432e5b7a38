import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { keyOf, withNotes } from './instrument.js'
import { runTests } from './trial.js'
import { ROOT, Workspace } from './workspace.js'

const KEPT = join(ROOT, 'node_modules/.cache/fd-broker-mutants/reach.json')

interface Kept {
  /** Test files with how long they took, in milliseconds. */
  readonly tests: Record<string, number>
  /** Of each function, the test files that come to it, as numbers in `tests`. */
  readonly functions: Record<string, number[]>
}

/** Which test files come to which function, in their own process or in one that they started. */
export class Reach {
  readonly #kept: Kept
  readonly #names: string[]

  private constructor(kept: Kept) {
    this.#kept = kept
    this.#names = Object.keys(kept.tests)
  }

  /** What was found last, or null. Functions come and go between: what is new has the tests of its file. */
  static load(): Reach | null {
    try {
      return new Reach(JSON.parse(readFileSync(KEPT, 'utf8')) as Kept)
    } catch {
      return null
    }
  }

  /** Runs all tests in `folders` once. */
  static async find(files: readonly string[], folders: readonly string[]): Promise<Reach> {
    const workspace = new Workspace(files, withNotes)
    try {
      const notes = join(workspace.folder, 'notes.txt')
      writeFileSync(notes, '')
      workspace.switch({ notes })
      const { files: results } = await runTests(workspace, folders, {
        bail: false,
        workers: 2,
        limitMs: 3_600_000,
        show: true,
      })
      const passed = results.filter(({ failed }) => failed.length === 0)
      const tests = Object.fromEntries(passed.map(({ file, ms }) => [file, Math.round(ms)]))
      const numbers = new Map(Object.keys(tests).map((name, n) => [name, n]))
      const found = new Map<string, Set<number>>()
      for (const line of readFileSync(notes, 'utf8').split('\n')) {
        const [test = '', name = ''] = line.split('\t')
        const number = numbers.get(test)
        if (number !== undefined) found.set(name, (found.get(name) ?? new Set()).add(number))
      }
      const functions = Object.fromEntries([...found].map(([name, set]) => [name, [...set]]))
      mkdirSync(dirname(KEPT), { recursive: true })
      writeFileSync(KEPT, JSON.stringify({ tests, functions } satisfies Kept))
      return new Reach({ tests, functions })
    } finally {
      workspace.close()
    }
  }

  /** Those that come to the function, the quickest first; none: the tests come nowhere near. */
  testsOf(file: string, within: string): string[] {
    const { functions } = this.#kept
    for (let name = within; name !== ''; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) {
      const numbers = functions[keyOf(file, name)]
      if (numbers !== undefined) return this.#sorted(numbers)
    }
    const ofFile = Object.keys(functions).filter(key => key.startsWith(`${file} `))
    return this.#sorted([...new Set(ofFile.flatMap(key => functions[key]!))])
  }

  msOf(test: string): number {
    return this.#kept.tests[test] ?? 0
  }

  #sorted(numbers: readonly number[]): string[] {
    return numbers.map(n => this.#names[n]!).toSorted((a, b) => this.msOf(a) - this.msOf(b))
  }
}
