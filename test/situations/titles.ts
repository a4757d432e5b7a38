import { conditionAt } from '../lanes/conditions.js'
import { titlesOf } from '../walls/titles.js'

/** A test in a source file. */
export interface TitledTest {
  readonly title: string
  /** Conditions of the test and of the suites around it: `NIGHTLY`, `why !== null`; `always` if it is skipped as such. */
  readonly conditions: readonly string[]
}

/** Returns the tests of a source file that the formatter has indented. */
export function testsOf(source: string): TitledTest[] {
  const found: TitledTest[] = []
  const around: { indent: number; conditions: readonly string[] }[] = []
  for (const { word, text: title, line, indent, methods } of titlesOf(source)) {
    while (around.length > 0 && around.at(-1)!.indent >= indent) around.pop()
    const own = conditionAt(source, line)
    const conditions = [
      ...(around.at(-1)?.conditions ?? []),
      ...(/\.(?:skip|todo|only)\b/.test(methods) ? ['always'] : []),
      ...(own === null ? [] : [own]),
    ]
    if (word === 'describe') around.push({ indent, conditions })
    else found.push({ title, conditions })
  }
  return found
}
