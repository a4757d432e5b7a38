/** A `skipIf(...)` or `runIf(...)` in the source of a test. */
export interface Condition {
  readonly line: number
  /** What stands between the brackets, on one line. */
  readonly text: string
}

/** Those of one file, from its beginning to its end. */
export function conditionsOf(source: string): Condition[] {
  return [...source.matchAll(/\.(?:skipIf|runIf)\(/g)].map(({ 0: call, index }) => {
    const from = index + call.length
    return { line: source.slice(0, index).split('\n').length, text: insideBrackets(source, from) }
  })
}

function insideBrackets(source: string, from: number): string {
  let open = 1
  let at = from
  for (; open > 0 && at < source.length; at++) {
    if (source[at] === '(') open++
    if (source[at] === ')') open--
  }
  return source
    .slice(from, at - 1)
    .replace(/\s+/g, ' ')
    .replace(/,? $/, '')
    .trim()
}

/** The one that decides about what is called in this line: the last that begins there or before. */
export function conditionAt(conditions: readonly Condition[], line: number): string | null {
  return conditions.findLast(condition => condition.line <= line)?.text ?? null
}
