import type { Directive } from './nginx-syntax.js'

/** The paths of a location. */
export interface LocationPath {
  readonly text: string
  /** The path of its routes; empty for a pattern. */
  readonly path: string
  readonly isExact: boolean
}

/** A segment that a pattern leaves open. */
const OPEN = /^\(?(?:\?<\w+>)?(?:ANY[+*]|\[[\w-]+\]\+|\\[dw]\+|\.\+)\)?$/

/** `=` and `/x` of `location = /x`; the modifier is empty where there is none. */
export function matcherOf({ args }: Directive): { modifier: string; text: string } {
  const [first = '', second] = args
  // `location ~^/x` is read as `location ~ ^/x`, and so on.
  const [, glued, rest = ''] = /^(=|\^~|~\*|~)(.+)$/.exec(first) ?? []
  if (second === undefined && glued !== undefined) return { modifier: glued, text: rest }
  return second === undefined ? { modifier: '', text: first } : { modifier: first, text: second }
}

/**
 * The locations that nginx chooses for a path, from outside: the exact one, else the longest plain one and those in it, unless a pattern fits. Null if a pattern is
 * not understood.
 */
export function locationsFor(block: readonly Directive[], path: string): readonly Directive[] | null {
  try {
    return search(block, path, []).chain
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

function search(
  block: readonly Directive[],
  path: string,
  outer: readonly Directive[],
): { chain: readonly Directive[]; isFinal: boolean } {
  const level = block.filter(({ name, args }) => name === 'location' && args[0]?.startsWith('@') === false)
  const all = level.map(directive => ({ directive, ...matcherOf(directive) }))
  const exact = all.find(({ modifier, text }) => modifier === '=' && text === path)
  if (exact !== undefined) return { chain: [...outer, exact.directive], isFinal: true }
  const [plain] = all
    .filter(({ modifier, text }) => /^(?:\^~)?$/.test(modifier) && path.startsWith(text))
    .sort((a, b) => b.text.length - a.text.length)
  const within = ({ directive }: { directive: Directive }) =>
    search(directive.block ?? [], path, [...outer, directive])
  const known = plain === undefined ? { chain: outer, isFinal: false } : within(plain)
  if (known.isFinal || plain?.modifier === '^~') return known
  const pattern = all.find(
    ({ modifier, text }) =>
      modifier.startsWith('~') && new RegExp(text, modifier === '~*' ? 'i' : '').test(path),
  )
  return pattern === undefined ? known : { chain: within(pattern).chain, isFinal: true }
}

const MOST_ALTERNATIVES = 20

/** The paths of a pattern that consists of whole segments from the begin on, with `*` for those that it leaves open; null for others. */
export function segmentPaths(pattern: string): readonly string[] | null {
  const paths = alternatives(pattern).map(plainPattern)
  return paths.includes(null) ? null : (paths as string[])
}

/** The patterns that a pattern with groups as `(a|b)` stands for. */
function alternatives(pattern: string): readonly string[] {
  let all = [pattern]
  for (;;) {
    const next = all.flatMap(each => {
      const group = /\((?:\?:)?((?:\\[.-]|[\w.~-])+(?:\|(?:\\[.-]|[\w.~-])+)+)\)/.exec(each)
      return group === null ? [each] : group[1]!.split('|').map(one => each.replace(group[0], () => one))
    })
    if (next.length > MOST_ALTERNATIVES || next.join() === all.join()) return all
    all = next
  }
}

/** The path of a pattern that consists of whole segments from the begin on; null for others. */
function plainPattern(pattern: string): string | null {
  if (!pattern.startsWith('^/')) return null
  const body = pattern
    .slice(2)
    .replace(/\$$/, '')
    .replace(/\/?\(?\.\*\)?$/, '')
    .replace(/\(\/\|\$?\)?$/, '')
    .replace(/\/\??$/, '')
  if (body === '') return null
  const segments = body.replaceAll('[^/]', 'ANY').replaceAll('\\.', '.').replaceAll('\\-', '-').split('/')
  const path = segments.map(each => (/^[\w.~-]+$/.test(each) ? each : OPEN.test(each) ? '*' : null))
  return path.includes(null) || body.includes('.*') ? null : `/${path.join('/')}`
}
