/** Regular expressions about paths, as patterns of the proxy (`path=*.php`). */

export interface PathPattern {
  /** A `*` stands for any characters. With a `/` at its end it takes only paths with one. */
  readonly glob: string
  /** Whether it takes no other paths than the expression, besides those with a slash at the end. */
  readonly exact: boolean
  /** Whether the expression takes no path with a slash at its end where the pattern does. */
  readonly withoutSlash: boolean
}

type Item = string | typeof ANY | typeof SOME | typeof BEGIN | typeof END
/** Any characters. */
const ANY = Symbol('any')
/** At least one character. */
const SOME = Symbol('some')
const BEGIN = Symbol('begin')
const END = Symbol('end')

interface Sequence {
  readonly items: readonly Item[]
  readonly exact: boolean
}

const MOST_SEQUENCES = 40
const MOST_STARS = 8
const MOST_CHARACTERS = 250
const EMPTY: Sequence = { items: [], exact: true }
const OPEN: Sequence = { items: [ANY], exact: false }
/** All paths, some of which the expression does not take. */
const ALL: readonly PathPattern[] = [{ glob: '*', exact: false, withoutSlash: false }]

/** Returns patterns of which each path that the expression takes has at least one. */
export function patternsOf(expression: string): readonly PathPattern[] {
  const sequences = new Parser(expression).parse()
  if (sequences === null) return ALL
  const found = new Map<string, PathPattern>()
  for (const pattern of sequences.flatMap(patternOf)) {
    const known = found.get(pattern.glob)
    if (known === undefined || (pattern.exact && !known.exact)) found.set(pattern.glob, pattern)
    else if (known.exact === pattern.exact && !pattern.withoutSlash) found.set(pattern.glob, pattern)
  }
  for (const [glob, pattern] of found) {
    // Paths without and with a slash at the end are those of one pattern.
    const other = pattern.withoutSlash ? found.get(`${glob}/`) : undefined
    if (other === undefined || other.exact !== pattern.exact) continue
    found.delete(other.glob)
    found.set(glob, { ...pattern, withoutSlash: false })
  }
  return [...found.values()]
}

function patternOf({ items, exact }: Sequence): PathPattern[] {
  const anchored = items[0] === BEGIN
  const ends = items.at(-1) === END
  const inner = items.slice(anchored ? 1 : 0, ends ? -1 : undefined)
  let sure = exact
  let glob = anchored ? '' : '*'
  for (const [at, item] of inner.entries()) {
    // A place within the path that is its begin or its end.
    if (item === BEGIN || item === END) sure = false
    else if (item === ANY || item === SOME) {
      // The first character of a path is a slash.
      const isFirst = at === 0 && inner[1] !== '/' && inner[1] !== ANY
      if (item === SOME && !isFirst) sure = false
      if (!glob.endsWith('*')) glob += '*'
    } else {
      const written = writtenOf(item)
      // No path of the proxy has these.
      if (written === null) return []
      glob += written
    }
  }
  if (!ends && !glob.endsWith('*')) glob += '*'
  if (!/^[/*]/.test(glob) || glob.includes('//')) return []
  if (glob.length > MOST_CHARACTERS || glob.split('*').length - 1 > MOST_STARS) return [...ALL]
  const withoutSlash = ends && !/[*/]$/.test(glob)
  return [{ glob, exact: sure, withoutSlash }]
}

/** A character as normalised paths have it; null if they do not. */
function writtenOf(character: string): string | null {
  if (/[%;\\\n\r\t\0]/.test(character)) return null
  if (/[A-Za-z0-9\-._~!$&'()+,=:@/]/.test(character)) return character
  return character === '*' ? '%2A' : encodeURIComponent(character)
}

/** Reads an expression into the sequences of characters that it stands for. */
class Parser {
  #at = 0
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  /** Null for an expression that is not understood. */
  parse(): readonly Sequence[] | null {
    try {
      const all = this.#alternatives()
      return this.#at < this.#text.length ? null : all
    } catch (error) {
      if (error instanceof NotUnderstood) return null
      throw error
    }
  }

  #alternatives(): readonly Sequence[] {
    let all = this.#concatenation()
    while (this.#takes('|')) all = limited([...all, ...this.#concatenation()])
    return all
  }

  #concatenation(): readonly Sequence[] {
    let all: readonly Sequence[] = [EMPTY]
    while (this.#at < this.#text.length && !/[|)]/.test(this.#text[this.#at]!)) {
      const atom = this.#quantified(this.#atom())
      all = limited(all.flatMap(one => atom.map(other => joined(one, other))))
    }
    return all
  }

  #takes(text: string): boolean {
    if (!this.#text.startsWith(text, this.#at)) return false
    this.#at += text.length
    return true
  }

  #atom(): readonly Sequence[] {
    const sign = this.#text[this.#at]!
    this.#at += 1
    if (sign === '(') return this.#group()
    if (sign === '[') return this.#class()
    if (sign === '.') return [OPEN]
    if (sign === '^') return [{ items: [BEGIN], exact: true }]
    if (sign === '$') return [{ items: [END], exact: true }]
    if (sign === '\\') return this.#escape()
    if (/[*+?{]/.test(sign)) throw new NotUnderstood()
    return [{ items: [sign], exact: true }]
  }

  #group(): readonly Sequence[] {
    const looks = /^\?(?:=|!|<=|<!)/.exec(this.#text.slice(this.#at))?.[0]
    const opening = looks ?? /^\?(?::|>|P?<\w+>|'\w+')/.exec(this.#text.slice(this.#at))?.[0] ?? ''
    if (opening === '' && this.#text[this.#at] === '?') throw new NotUnderstood()
    this.#at += opening.length
    const inner = this.#alternatives()
    if (!this.#takes(')')) throw new NotUnderstood()
    return looks === undefined ? inner : [{ items: [], exact: false }]
  }

  #class(): readonly Sequence[] {
    const [whole, not, body = ''] =
      /^(\^?)(\]?(?:\\.|\[:\w+:\]|[^\]\\])*)\]/s.exec(this.#text.slice(this.#at)) ?? []
    if (whole === undefined) throw new NotUnderstood()
    this.#at += whole.length
    const single = body.match(/^(?:\\[^\w]|[^\\[\]-])+$/)?.[0].replaceAll(/\\(.)/g, '$1')
    if (not === '^' || single === undefined || single.length > 8) return [OPEN]
    return [...single].map(each => ({ items: [each], exact: true }))
  }

  #escape(): readonly Sequence[] {
    const sign = this.#text[this.#at]
    this.#at += 1
    if (sign === undefined) throw new NotUnderstood()
    if (/[dDwWsShHvVRNX]/.test(sign)) return [OPEN]
    if (/[bB]/.test(sign)) return [{ items: [], exact: false }]
    if (sign === 'A') return [{ items: [BEGIN], exact: true }]
    if (/[zZ]/.test(sign)) return [{ items: [END], exact: true }]
    if (/\w/.test(sign)) throw new NotUnderstood()
    return [{ items: [sign], exact: true }]
  }

  #quantified(atom: readonly Sequence[]): readonly Sequence[] {
    const [sign, least, most] = /^(?:[*+?]|\{(\d+)(?:,(\d*))?\})/.exec(this.#text.slice(this.#at)) ?? []
    if (sign === undefined) return atom
    const isAny = atom.length === 1 && atom[0] === OPEN && /[.]$/.test(this.#text.slice(0, this.#at))
    const isEscaped = /\\.$/.test(this.#text.slice(0, this.#at))
    this.#at += sign.length
    if (!this.#takes('?')) this.#takes('+')
    if (sign === '?') return limited([EMPTY, ...atom])
    if (least === '1' && most === undefined && sign === '{1}') return atom
    if (isAny && !isEscaped && sign === '*') return [{ items: [ANY], exact: true }]
    if (isAny && !isEscaped && sign === '+') return [{ items: [SOME], exact: true }]
    if (sign === '*' || least === '0') return [OPEN]
    return atom.map(each => joined(each, OPEN))
  }
}

class NotUnderstood extends Error {}

function joined(a: Sequence, b: Sequence): Sequence {
  return { items: [...a.items, ...b.items], exact: a.exact && b.exact }
}

function limited(all: readonly Sequence[]): readonly Sequence[] {
  if (all.length > MOST_SEQUENCES) throw new NotUnderstood()
  return all
}
