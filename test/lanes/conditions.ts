/** A `skipIf(...)` or `runIf(...)` in the source of a test. */
export interface Condition {
  readonly line: number
  /** The text between the brackets, on one line. */
  readonly text: string
}

/** Returns the conditions of one file, from its beginning to its end. */
export function conditionsOf(source: string): Condition[] {
  return [...source.matchAll(/\.(?:skipIf|runIf)\(/g)].map(({ 0: call, index }) => {
    const from = index + call.length
    return { line: lineAt(source, index), text: insideBrackets(source, from) }
  })
}

function lineAt(source: string, at: number): number {
  return source.slice(0, at).split('\n').length
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

/** A call of a test or a suite, with the method that its name is followed by. */
const CALL = /\b(?:it|test|describe)(?:\.(\w+))?[<(]/g

/**
 * Returns the condition of the test or the suite that is called at this line; null if it has none. A call that spans several lines may be
 * reported with any of them.
 */
export function conditionAt(source: string, line: number): string | null {
  const call = [...source.matchAll(CALL)].findLast(({ index }) => lineAt(source, index) <= line)
  if (call === undefined || !/^(?:skipIf|runIf)$/.test(call[1] ?? '')) return null
  return insideBrackets(source, call.index + call[0].length)
}
