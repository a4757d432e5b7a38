import { parseAst } from 'vitest/node'
import type { Mutant } from '../mutants/places.js'
import type { Seed } from './seed.js'

interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
}

/** Where the text of a source changes, and what stands there then. */
interface Change {
  readonly start: number
  readonly end: number
  readonly text: string
}

const EXPRESSION =
  /^(?:(?:Binary|Logical|Conditional|Call|New|Unary|Array|Object|ArrowFunction|Await|Member|Chain|Assignment|Update|Yield)Expression|Identifier|Literal|TemplateLiteral)$/
const STATEMENT =
  /^(?:Block|If|For|ForOf|ForIn|While|Do|Return|Throw|Try|Switch|Expression|Break|Continue)Statement$/

/** Returns null if the source does not have the text of the seed, or has it more than once. */
export function changeOf(source: string, { find, put }: Pick<Seed, 'find' | 'put'>): Change | null {
  const at = source.indexOf(find)
  if (at < 0 || source.indexOf(find, at + 1) >= 0) return null
  let from = 0
  while (from < find.length && from < put.length && find[from] === put[from]) from++
  let behind = 0
  const most = Math.min(find.length, put.length) - from
  while (behind < most && find.at(-1 - behind) === put.at(-1 - behind)) behind++
  return { start: at + from, end: at + find.length - behind, text: put.slice(from, put.length - behind) }
}

/**
 * The smallest expression, statement or block that holds the whole change, so that a switch can stand around it. Returns null if the source does not
 * have the text. Throws where nothing can be switched there: a seed that changes a declaration, say.
 */
export function placeOf(
  source: string,
  seed: Pick<Seed, 'find' | 'put' | 'file'>,
): Omit<Mutant, 'within' | 'kind'> | null {
  const change = changeOf(source, seed)
  if (change === null) return null
  const changed = source.slice(0, change.start) + change.text + source.slice(change.end)
  const wanted = shapeOf(changed)
  for (const { node, called } of holding(parseAst(source, { lang: 'ts' }) as unknown as Node, change)) {
    const { start, end, type } = node
    const now = source.slice(start, change.start) + change.text + source.slice(change.end, end)
    const around = (text: string) => source.slice(0, start) + text + source.slice(end)
    if (STATEMENT.test(type)) return { start, end, form: 'statement', text: now }
    // A called function keeps its object only where it stands before the parentheses.
    if (called || !EXPRESSION.test(type)) continue
    if (
      shapeOf(around(`(${now})`)) === wanted &&
      shapeOf(around(`(seeded ? (${now}) : (${source.slice(start, end)}))`))
    )
      return { start, end, form: 'expression', text: now }
  }
  throw new Error(`${seed.file}: no expression or statement can be switched at ${JSON.stringify(seed.find)}`)
}

/** All nodes that hold the change, the smallest first. */
function holding(root: Node, change: Change): { node: Node; called: boolean }[] {
  const found: { node: Node; called: boolean }[] = []
  const visit = (node: Node, called: boolean) => {
    if (node.start > change.start || node.end < change.end) return
    found.push({ node, called })
    for (const [key, value] of Object.entries(node))
      for (const child of Array.isArray(value) ? value : [value])
        if (typeof child?.type === 'string') visit(child, key === 'callee' || key === 'tag')
  }
  visit(root, false)
  return found.toSorted((a, b) => a.node.end - a.node.start - (b.node.end - b.node.start))
}

/** The tree of a source without positions and parentheses; '': it is none. */
function shapeOf(source: string): string {
  try {
    return JSON.stringify(plain(parseAst(source, { lang: 'ts' })))
  } catch {
    return ''
  }
}

function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return `${value}`
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  const { type, expression } = value as { type?: string; expression?: unknown }
  if (type === 'ParenthesizedExpression') return plain(expression)
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, of]) =>
      key === 'start' || key === 'end' || key === 'range' || key === 'loc' ? [] : [[key, plain(of)]],
    ),
  )
}
