import type { Directive } from './nginx-syntax.js'

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
