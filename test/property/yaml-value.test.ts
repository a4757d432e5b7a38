import { isDeepStrictEqual } from 'node:util'
import { describe, expect, it } from 'vitest'
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml'
import { ConfigDocument } from '../../src/config/document.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const SEED = { seed: 20_26 }

/** A key that is null is called so by one package, and '' by the other; no configuration has either. */
function named(given: unknown): unknown {
  if (Array.isArray(given)) return given.map(named)
  if (typeof given !== 'object' || given === null) return given
  return Object.entries(given).map(([key, value]) => [key || 'null', named(value)])
}

/** The result of the whole parser; a symbol: something is wrong with the text, or may be. */
function whole(text: string): unknown {
  const document = parseDocument(text, { version: '1.2', prettyErrors: false })
  if (document.errors.length + document.warnings.length > 0) return Symbol('wrong')
  try {
    return document.toJS()
  } catch {
    return Symbol('an alias of nothing')
  }
}

function placeOf(text: string, path: (string | number)[]): { line: number; column: number } {
  const lineCounter = new LineCounter()
  let node: Node | null = parseDocument(text, { lineCounter, version: '1.2' }).contents
  for (const step of path) {
    if (isSeq(node)) node = node.items[Number(step)] as Node
    else if (isMap(node))
      node = node.items.find(({ key }) => isScalar(key) && String(key.value) === step)?.value as Node
  }
  const { line, col } = lineCounter.linePos(node!.range![0])
  return { line, column: col }
}

/** Texts that mean something in one place, and something else, or nothing, in another. */
const SCALARS = [
  ...['a', 'shop.example.com', '/api', 'tcp://127.0.0.1:80', '127.0.0.1', '[::1]:80', '::1', '*', '"*"', 'é'],
  ...[
    '1',
    '0',
    '-1',
    '01',
    '1.5',
    '5.',
    '.5',
    '+1',
    '0x1f',
    '0o7',
    '0b1',
    '1e5',
    '1_000',
    '.inf',
    '.nan',
    '-.inf',
  ],
  ...['true', 'True', 'yes', 'off', 'null', '~', '10s', '16k', '12:30', '2001-01-01', '""', "''", '"a\\nb"'],
  ...[
    "'it''s'",
    '"x',
    "'x",
    '"a"b',
    '"\\x41"',
    '"a" #c',
    "'a'#c",
    '#c',
    ' #c',
    'a#b',
    'a #b',
    'a: b',
    'a:b',
    'a:',
  ],
  ...[
    '[',
    ']',
    '{',
    '}',
    ',',
    '-',
    '- ',
    '- x',
    '|',
    '>',
    '&x',
    '&x a',
    '*x',
    '!t',
    '!t a',
    '?',
    '? a',
    '%',
    '@',
    '`',
  ],
  ...[
    '...',
    '---',
    '--- a',
    '..',
    '.',
    'a b',
    'a  b',
    'a,b',
    'a]',
    '(x)',
    '=',
    '<<',
    '__proto__',
    '\t',
    'a\tb',
    'a ?',
  ],
  ...[
    '{ host: a, path: /b }',
    '{}',
    '[]',
    '{a: 1}',
    '{"a": 1}',
    '{"a":1}',
    '{a:1}',
    '{a}',
    '{ a : 1 }',
    '{a: 1,}',
  ],
  ...[
    '{a: , b: 1}',
    '{ a: b: c }',
    '{a: 1, a: 2}',
    '[1, a]',
    '[a,b]',
    '[a,,b]',
    '[,]',
    '[a: 1]',
    '[x y]',
    '[ ]',
    '[ a ]',
  ],
  ...[
    '{ a: [b, {c: d}] }',
    '[a #b',
    '{a: x#y}',
    '{a: x #y}',
    '{a: 1} #c',
    '{a: 1}#c',
    '[http://x, "y,z"]',
    '[a',
    'b]',
  ],
]
const KEYS = [
  'a',
  'b',
  'host',
  'a.b',
  '/x',
  '"q"',
  "'s'",
  'k k',
  '1',
  'null',
  'true',
  '-k',
  'é',
  'a:b',
  '<<',
  '__proto__',
]
const indent = fc.constantFrom('', '', '', ' ', '  ', '  ', '   ', '    ', '      ')
const scalar = fc.constantFrom(...SCALARS)
const key = fc.constantFrom(...KEYS, ...KEYS.slice(0, 7))
const line = fc.oneof(
  fc.tuple(indent, key, scalar).map(([space, name, value]) => `${space}${name}: ${value}`),
  fc.tuple(indent, key).map(([space, name]) => `${space}${name}:`),
  fc.tuple(indent, scalar).map(([space, value]) => `${space}- ${value}`),
  fc.tuple(indent, key, scalar).map(([space, name, value]) => `${space}- ${name}: ${value}`),
  fc
    .tuple(
      indent,
      fc.constantFrom(
        '',
        '# c',
        '-',
        '- - a',
        '-  a: 1',
        '- # c',
        'a:   # c',
        'a:  b  ',
        'a : b',
        'b',
        '? a',
      ),
    )
    .map(([space, rest]) => `${space}${rest}`),
)

/** A document as people write it, of one of some styles. */
const value = fc.letrec(tie => ({
  leaf: fc.constantFrom<unknown>(
    'shop.example.com',
    '/api',
    '*',
    '127.0.0.1',
    "it's",
    'a: b',
    '10s',
    '',
    'yes',
    0,
    17,
    true,
    false,
    null,
  ),
  list: fc.array(tie('any'), { maxLength: 4 }),
  map: fc.dictionary(fc.constantFrom('host', 'path', 'upstream', 'respond', 'x-y', 'A b'), tie('any'), {
    maxKeys: 4,
    noNullPrototype: true,
  }),
  any: fc.oneof({ depthSize: 'small', withCrossShrink: true }, tie('leaf'), tie('list'), tie('map')),
})).any

function inLine(given: unknown): string {
  if (typeof given === 'string')
    return /^[a-z/][\w./]*$/.test(given) && given !== 'yes' ? given : JSON.stringify(given)
  if (Array.isArray(given)) return `[${given.map(inLine).join(', ')}]`
  if (typeof given === 'object' && given !== null)
    return `{ ${Object.entries(given)
      .map(([name, its]) => `${JSON.stringify(name)}: ${inLine(its)}`)
      .join(', ')} }`
  return String(given)
}

function written(given: unknown, space: string, isInLine: boolean): string {
  const lines = (all: [string, unknown][]) =>
    all.map(([mark, its]) => {
      const nested = typeof its === 'object' && its !== null && Object.keys(its).length > 0 && !isInLine
      return nested
        ? `${space}${mark}\n${written(its, `${space}  `, false)}`
        : `${space}${mark} ${inLine(its)}\n`
    })
  if (Array.isArray(given) && given.length > 0) return lines(given.map(its => ['-', its])).join('')
  if (typeof given === 'object' && given !== null && Object.keys(given).length > 0)
    return lines(
      Object.entries(given).map(([name, its]) => [/^\w+$/.test(name) ? `${name}:` : `"${name}":`, its]),
    ).join('')
  return `${space}${inLine(given)}\n`
}

/** The value, or a symbol if the reader refuses the text. */
function read(text: string): unknown {
  const { syntax, value } = new ConfigDocument(text)
  return syntax.length > 0 ? Symbol('refused') : value
}

/** The texts of all values, by path, with the place at which each stands. */
function* places(given: unknown, path: (string | number)[] = []): Generator<(string | number)[]> {
  if (path.length > 0) yield path
  if (typeof given !== 'object' || given === null) return
  for (const [key, its] of Object.entries(given))
    yield* places(its, [...path, Array.isArray(given) ? Number(key) : key])
}

describe('the value of a YAML text', () => {
  it('equals that of another reader of YAML, wherever both accept the text', () => {
    let compared = 0
    const property = fc.property(fc.array(line, { minLength: 1, maxLength: 5 }), lines => {
      const text = lines.join('\n')
      const found = read(text)
      const other = whole(text)
      if (typeof found === 'symbol' || typeof other === 'symbol') return
      compared++
      expect(named(found)).toStrictEqual(named(other))
    })
    fc.assert(property, { ...SEED, numRuns: perLane(750, 6_000) })
    expect(compared).toBeGreaterThan(100)
  })

  it('as people write it is read, and each of its values stands where another reader finds it', () => {
    const property = fc.property(value, fc.boolean(), (given, isInLine) => {
      if (typeof given !== 'object' || given === null || Object.keys(given).length === 0) return
      const text = written(given, '', isInLine)
      expect(read(text)).toStrictEqual(given)
      if (!isDeepStrictEqual(whole(text), given)) throw new Error(`the test writes it wrong:\n${text}`)
      const document = new ConfigDocument(text)
      for (const path of places(given))
        expect(document.position(path, false), `${path.join('.')} in\n${text}`).toEqual(placeOf(text, path))
    })
    fc.assert(property, { ...SEED, numRuns: perLane(125, 1_000) })
  })

  it.each([
    ['texts of several lines', 'a: |\n  b\nc: >\n  d\n  e'],
    ['a text that goes on', 'a: b\n  c'],
    ['tabs', 'a:\tb'],
    ['other line breaks', 'a: 1\r\nb: 2'],
    ['a single text', 'a'],
    ['brackets that go on', 'a: [b,\n  c]'],
    ['anchors', 'a: &x 1\nb: *x'],
    ['tags', 'a: !!str 1'],
    ['merged maps', 'a: {b: 1}\n<<: {c: 1}'],
    ['directives', '%YAML 1.2\n---\na: 1'],
    ['nothing', ''],
    ['comments alone', '# a\n'],
  ])('stays the same with %s', (_, text) => {
    expect(read(text)).toStrictEqual(whole(text))
  })

  it.each([
    ['several documents', 'a: 1\n---\nb: 1'],
    ['a key that is there twice', 'a: 1\na: 2'],
    ['what is nested too deep', `${'['.repeat(1000)}${']'.repeat(1000)}`],
    ['an unknown tag', 'a: !b 1'],
    ['an alias of nothing', 'a: *b'],
  ])('gives none for %s', (_, text) => {
    expect(new ConfigDocument(text).syntax).toHaveLength(1)
  })
})
