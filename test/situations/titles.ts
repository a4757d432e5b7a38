import { conditionAt } from '../lanes/conditions.js'

/** A test in a source file. */
export interface TitledTest {
  readonly title: string
  /** Conditions of the test and of the suites around it: `NIGHTLY`, `why !== null`; `always` if it is skipped as such. */
  readonly conditions: readonly string[]
}

/** A call of a test or a suite; its last brackets, behind those of a table or a condition, begin with the title. */
const CALL = /^( *)(it|test|describe)((?:\.\w+)*)\b/gm
const TITLE = /\(\s*(['"`])((?:(?!\1)[^\\]|\\.)*)\1/

/** Returns the tests of a source file that the formatter has indented. */
export function testsOf(source: string): TitledTest[] {
  const found: TitledTest[] = []
  const around: { indent: number; conditions: readonly string[] }[] = []
  for (const { 0: call, 1: space = '', 2: word, 3: methods = '', index } of source.matchAll(CALL)) {
    while (around.length > 0 && around.at(-1)!.indent >= space.length) around.pop()
    const own = conditionAt(source, source.slice(0, index).split('\n').length)
    const conditions = [
      ...(around.at(-1)?.conditions ?? []),
      ...(/\.(?:skip|todo|only)\b/.test(methods) ? ['always'] : []),
      ...(own === null ? [] : [own]),
    ]
    if (word === 'describe') around.push({ indent: space.length, conditions })
    else found.push({ title: titleAt(source, index + call.length), conditions })
  }
  return found
}

/** Skips the brackets of `.each(…)` and `.runIf(…)`. */
function titleAt(source: string, from: number): string {
  let at = from
  for (;;) {
    const end = closing(source, source.indexOf('(', at))
    if (!/^\s*\(/.test(source.slice(end))) return TITLE.exec(source.slice(at, end))?.[2] ?? ''
    at = end
  }
}

/** The place behind the bracket that closes the one at `from`. */
function closing(source: string, from: number): number {
  let open = 0
  for (let at = from; at < source.length; at++) {
    const character = source[at]!
    if (`'"\``.includes(character)) at = source.indexOf(character, at + 1)
    else if (character === '(') open++
    else if (character === ')' && --open === 0) return at + 1
    if (at < 0) break
  }
  return source.length
}
