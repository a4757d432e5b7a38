import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { keyOf, withNotes } from './instrument.js'
import { runTests } from './test-run.js'
import { ROOT, Workspace } from './workspace.js'

const KEPT = join(ROOT, 'node_modules/.cache/fd-broker-mutants/reach.json')

interface Reached {
  readonly ms: number
  readonly functions: readonly string[]
  /** Tests of it that failed with nothing but notes in the sources: too slow, as a rule. */
  readonly unsure: readonly string[]
}

/** By test file. */
type Kept = Record<string, Reached>

/** Which test files come to which function, in their own process or in one that they started. */
export class Reach {
  readonly #kept: Kept
  readonly #tests = new Map<string, Set<string>>()

  private constructor(kept: Kept) {
    this.#kept = kept
    for (const [test, { functions }] of Object.entries(kept)) {
      for (const name of functions) this.#tests.set(name, (this.#tests.get(name) ?? new Set()).add(test))
    }
  }

  /** Loads the earlier result, or null. Functions come and go since: a new function has the tests of its file. */
  static load(): Reach | null {
    try {
      return new Reach(JSON.parse(readFileSync(KEPT, 'utf8')) as Kept)
    } catch {
      return null
    }
  }

  /** Runs the tests in `paths` once, and adds what is found to what was found before. */
  static async find(files: readonly string[], paths: readonly string[]): Promise<Reach> {
    const workspace = new Workspace(files, withNotes)
    try {
      const notes = join(workspace.folder, 'notes.txt')
      writeFileSync(notes, '')
      workspace.switch({ notes })
      const limitMs = 2 * 60 * 60_000
      const { files: results } = await runTests(workspace, paths, {
        bail: false,
        workers: 2,
        limitMs,
        show: true,
      })
      const before = Reach.load()
      const kept = before === null ? {} : { ...before.#kept }
      const reached = byTest(readFileSync(notes, 'utf8'))
      for (const { file, ms, failed } of results) {
        for (const { name, why } of failed)
          console.log(`fails without a mutant: ${file}: ${name}\n    ${why}`)
        const unsure = failed.map(({ name }) => name)
        kept[file] = { ms: Math.round(ms), functions: [...(reached.get(file) ?? [])], unsure }
      }
      mkdirSync(dirname(KEPT), { recursive: true })
      writeFileSync(KEPT, JSON.stringify(kept))
      return new Reach(kept)
    } finally {
      workspace.close()
    }
  }

  /** The tests that reach the function, the quickest first; empty if no test does. */
  testsOf(file: string, within: string): string[] {
    // C is not noted: its own tests come to it.
    if (file.endsWith('.c'))
      return this.#sorted(new Set(Object.keys(this.#kept).filter(test => test.startsWith('test/native/'))))
    for (let name = within; name !== ''; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) {
      const tests = this.#tests.get(keyOf(file, name))
      if (tests !== undefined) return this.#sorted(tests)
    }
    const ofFile = [...this.#tests].filter(([name]) => name.startsWith(`${file} `))
    return this.#sorted(new Set(ofFile.flatMap(([, tests]) => [...tests])))
  }

  msOf(test: string): number {
    return this.#kept[test]?.ms ?? 0
  }

  /** Whether a failure of this test says nothing of a mutant. */
  isUnsure(file: string, test: string): boolean {
    return this.#kept[file]?.unsure.includes(test) === true
  }

  /** Whether any test of these is. */
  hasUnsure(files: readonly string[]): boolean {
    return files.some(file => (this.#kept[file]?.unsure.length ?? 0) > 0)
  }

  #sorted(tests: ReadonlySet<string>): string[] {
    return [...tests].toSorted((a, b) => this.msOf(a) - this.msOf(b))
  }
}

function byTest(notes: string): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>()
  for (const line of notes.split('\n')) {
    const [test = '', name = ''] = line.split('\t')
    found.set(test, (found.get(test) ?? new Set()).add(name))
  }
  return found
}
