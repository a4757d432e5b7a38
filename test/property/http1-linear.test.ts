import { describe, expect, it } from 'vitest'
import { FIELD_NAMES } from '../../src/http1/field-names.js'
import {
  FieldEdits,
  Framing,
  Http1Refusal,
  RequestReader,
  ResponseReader,
  takeContent,
  writeRequest,
} from '../../src/http1/index.js'
import { canonicalPath, readings } from '../../src/proxy/routes/path.js'
import { RouteTable } from '../../src/proxy/routes/table.js'
import { Forwarder, requestEdits } from '../../src/relay/field-rules.js'
import { eventsOf, planResponse } from '../../src/relay/response-plan.js'
import { growthOf } from '../http1-support/growth.js'
import { Random } from '../http1-support/random.js'
import { perLane } from '../lanes/lane.js'

const FROM = 2 * 1024
const TO = 64 * 1024
/** How the time grows with the size: 1 if linear (a little more where memory is collected), 2 for the square. */
const MOST_EXPONENT = 1.5
const LIMITS = { headBytes: 1024 * 1024, fields: 100_000, targetBytes: 1024 * 1024 }
const SEED = Number(process.env.FDB_LINEAR_SEED ?? 1)

/** Characters with which peers fill values; the last ones are seeded mixtures. */
const ALPHABET = [
  ' ',
  '\t',
  ',',
  ';',
  '=',
  '/',
  '%2f',
  '.',
  '"',
  '(',
  'a',
  'a,',
  'b ;',
  '\xff',
  '-',
  '_',
  ':',
]
const FILLERS: [name: string, fill: (bytes: number) => string][] = [
  ['blanks', n => ' '.repeat(n)],
  ['tabs and blanks', n => ' \t'.repeat(n / 2)],
  ['commas', n => ','.repeat(n)],
  ['elements', n => 'a,'.repeat(n / 2)],
  ['elements and blanks', n => 'a , '.repeat(n / 4)],
  ['letters', n => 'a'.repeat(n)],
  ['digits', n => '0'.repeat(n)],
  ...[0, 1, 2].map((n): [string, (bytes: number) => string] => [`mixture ${n}`, bytes => mixture(n, bytes)]),
]

/** With every field in turn; at night all. */
const USUAL = perLane(
  FILLERS.filter(([name]) => name === 'mixture 0'),
  FILLERS,
)

function mixture(salt: number, bytes: number): string {
  const random = new Random(SEED * 97 + salt)
  const some = Array.from({ length: 2 + random.int(4) }, () => random.pick(ALPHABET))
  let text = ''
  while (text.length < bytes) text += random.pick(some).repeat(1 + random.int(40))
  return text.slice(0, bytes)
}

const edits = requestEdits({ remove: ['X-Removed'], set: { 'X-Set': 'x' } })
const responseEdits = new FieldEdits({ set: { 'X-Set': 'x' } })
const forwarder = new Forwarder({ forwarded: true })
const table = new RouteTable<{ name: string }>()
for (const path of ['/', '/a', '/a/b']) {
  table.put({ origin: 'file', host: '*', path: canonicalPath(path) as string }, { name: path })
}
table.put({ origin: 'file', host: '*.b.c', path: '/' }, { name: 'below' })

/** All that a request's head goes through on its way to a server. */
function passRequest(text: string): void {
  try {
    const head = new RequestReader(LIMITS).read(Buffer.from(text, 'latin1'))!
    head.framing()
    table.lookup(head.authority?.host ?? '', head.resource)
    readings(head.resource)
    const extra = forwarder.lines(head, '192.0.2.1', { listener: 'web', scheme: 'http' }, true)
    void writeRequest(head, { edits, extra, connection: 'upgrade' }).bytes[0]
  } catch (error) {
    if (!(error instanceof Http1Refusal)) throw error
  }
}

function passResponse(text: string): void {
  try {
    const head = new ResponseReader(LIMITS).read(Buffer.from(text, 'latin1'))!
    const asked = { method: 'GET', upgrade: true, http10: false, closeClient: false }
    const plan = planResponse(head, asked, { edits: responseEdits })
    eventsOf(head, plan)
    void plan.head.toString().charCodeAt(0)
  } catch (error) {
    if (!(error instanceof Http1Refusal)) throw error
  }
}

function passBody(text: string): void {
  try {
    takeContent(Framing.chunked('response'), Buffer.from(text, 'latin1'))
  } catch (error) {
    if (!(error instanceof Http1Refusal)) throw error
  }
}

function expectLinear(what: string, pass: (text: string) => void, text: (bytes: number) => string): void {
  const make = (bytes: number) => {
    const made = text(bytes)
    return () => pass(made)
  }
  let least = Number.POSITIVE_INFINITY
  let seen = ''
  // Again before it is called a failure: the machine may have been at something else all the time of a measurement.
  for (let tries = 0; tries < 3 && least >= MOST_EXPONENT; tries++) {
    const { size, time } = growthOf(make, FROM, TO)
    least = Math.min(least, Math.log(time) / Math.log(size))
    seen += ` ${size} times the size took ${time.toFixed(1)} times the time;`
  }
  expect(least, `${what}:${seen}`).toBeLessThan(MOST_EXPONENT)
}

/** Names that the parser knows, and names for which other code of ours looks. */
const NAMES = [
  ...FIELD_NAMES,
  'x-forwarded-for',
  'x-forwarded-proto',
  'forwarded',
  'content-type',
  'content-encoding',
  'x-other',
]

describe('the time for a head grows with its bytes, not with their square', () => {
  for (const name of NAMES) {
    it(`${name}: whatever its value is`, () => {
      for (const [filler, fill] of USUAL) {
        const value = (n: number) => `${name}: a${fill(n)}b\r\n`
        expectLinear(
          `${filler} in a request`,
          passRequest,
          n => `GET / HTTP/1.1\r\nHost: a\r\n${value(n)}\r\n`,
        )
        expectLinear(`${filler} in an answer`, passResponse, n => `HTTP/1.1 200 OK\r\n${value(n)}\r\n`)
      }
    })

    it(`${name}: however many lines there are`, () => {
      const other = name === 'connection' ? '' : 'Connection: upgrade, x-a, x-b\r\n'
      for (const value of perLane(['a, b'], ['a', 'chunked', '100-continue', 'a, b'])) {
        const lines = (n: number) =>
          other + `${name}: ${value}\r\n`.repeat(n / (name.length + value.length + 4))
        expectLinear(`${value} in requests`, passRequest, n => `GET / HTTP/1.1\r\nHost: a\r\n${lines(n)}\r\n`)
        expectLinear(`${value} in answers`, passResponse, n => `HTTP/1.1 200 OK\r\n${lines(n)}\r\n`)
      }
    })
  }

  it('a Connection that names many fields, of which there are many', () => {
    const names = (n: number) => Array.from({ length: n / 16 }, (_, i) => `x${i}`)
    const lines = (n: number) =>
      `Connection: ${names(n).join(', ')}\r\n${names(n)
        .map(name => `${name}: a\r\n`)
        .join('')}`
    expectLinear('in a request', passRequest, n => `GET / HTTP/1.1\r\nHost: a\r\n${lines(n)}\r\n`)
    expectLinear('in an answer', passResponse, n => `HTTP/1.1 200 OK\r\n${lines(n)}\r\n`)
  })

  it.each<[string, (filled: string) => string]>([
    ['path', filled => `GET /a${filled} HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['query', filled => `GET /?a${filled} HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['authority', filled => `GET http://a${filled}/ HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['target of CONNECT', filled => `CONNECT a${filled}:1 HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['method', filled => `GET${filled} / HTTP/1.1\r\nHost: a\r\n\r\n`],
    ['version', filled => `GET / HTTP/1.1${filled}\r\nHost: a\r\n\r\n`],
    ['name of a field', filled => `GET / HTTP/1.1\r\nHost: a\r\na${filled}: a\r\n\r\n`],
    ['end of the head', filled => `GET / HTTP/1.1\r\nHost: a\r\n${filled}\r\n\r\n`],
  ])('the %s', (_what, text) => {
    const more = ['/', '/.', '..%5c', '[', '/a', '%2f', '%25', '%2e/', ';', '%', 'a.', ':'].slice(
      0,
      perLane(4, 12),
    )
    const fillers = [
      ...FILLERS,
      ...more.map((each): (typeof FILLERS)[0] => [each, n => each.repeat(n / each.length)]),
    ]
    for (const [filler, fill] of fillers) expectLinear(filler, passRequest, n => text(fill(n)))
  })

  it('the reason of an answer', () => {
    for (const [filler, fill] of FILLERS) {
      expectLinear(filler, passResponse, n => `HTTP/1.1 200 a${fill(n)}b\r\n\r\n`)
    }
  })

  it('a head that comes byte by byte', () => {
    const piecewise = (text: string) => {
      const reader = new RequestReader(LIMITS)
      const bytes = Buffer.from(text, 'latin1')
      for (let at = 0; at < bytes.length; at++) reader.read(bytes, at, at + 1)
    }
    expectLinear('a value', piecewise, n => `GET / HTTP/1.1\r\nHost: a\r\nX: ${' '.repeat(n)}b\r\n\r\n`)
    expectLinear('lines', piecewise, n => `GET / HTTP/1.1\r\nHost: a\r\n${'X: b\r\n'.repeat(n / 6)}\r\n`)
  })
})

describe('the time for a chunked body grows with its bytes', () => {
  it.each<[string, (bytes: number) => string]>([
    ['chunks of one byte', n => '1\r\nx\r\n'.repeat(n / 6)],
    ['digits', n => '0'.repeat(n)],
    ['an extension', n => `1;${'a'.repeat(n)}`],
    ['extensions of many chunks', n => `1;${'a'.repeat(200)}=b\r\nx\r\n`.repeat(n / 210)],
    ['trailers', n => `0\r\n${'a: b\r\n'.repeat(n / 6)}\r\n`],
    ['a trailer of blanks', n => `0\r\na: ${' '.repeat(n)}b\r\n\r\n`],
    ['a large chunk', n => `${n.toString(16)}\r\n${'x'.repeat(n)}\r\n0\r\n\r\n`],
  ])('%s', (what, text) => expectLinear(what, passBody, text))
})
