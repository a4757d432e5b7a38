import { expect, it } from 'vitest'
import { type Conversion, convert } from '../../../src/convert/convert.js'
import { answersOf } from '../../convert-support/answers.js'
import fc from '../../lanes/generated.js'

const BACKENDS = ['b0', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'b7']

function haproxy(rules: readonly string[]): Conversion {
  const lines = rules.map(each => `  ${each}\n`).join('')
  const backends = ['last', ...BACKENDS].map(
    (name, at) => `backend ${name}\n  server s 10.0.0.${at + 1}:80\n`,
  )
  const text = `defaults\n  mode http\nfrontend web\n  bind :80\n${lines}  default_backend last\n${backends.join('')}`
  return convert(text, { file: 'haproxy.cfg', language: 'haproxy', service: 'edge', included: () => [] })
}

interface Asked {
  readonly host: string
  readonly path: string
  readonly method: string
  readonly value: string
  readonly client: string
}

/** Tests of HAProxy, and what they are true for. */
const TESTS: readonly (readonly [string, (asked: Asked) => boolean])[] = [
  ['path_beg /a', ({ path }) => path.startsWith('/a')],
  ['path_beg /a/', ({ path }) => path.startsWith('/a/')],
  ['path_beg /ab', ({ path }) => path.startsWith('/ab')],
  ['path_beg -i /A/B', ({ path }) => path.toLowerCase().startsWith('/a/b')],
  ['path /a', ({ path }) => path === '/a'],
  ['path /a/b', ({ path }) => path === '/a/b'],
  ['path_end .php', ({ path }) => path.endsWith('.php')],
  ['path_end b', ({ path }) => path.endsWith('b')],
  ['path_sub b', ({ path }) => path.includes('b')],
  ['hdr(host) a.test', ({ host }) => host === 'a.test'],
  ['hdr(host) w.a.test', ({ host }) => host === 'w.a.test'],
  ['hdr_end(host) .a.test', ({ host }) => host.endsWith('.a.test')],
  ['hdr_end(host) .w.a.test', ({ host }) => host.endsWith('.w.a.test')],
  ['hdr(X-A) 1', ({ value }) => value === '1'],
  ['hdr(x-a) 12', ({ value }) => value === '12'],
  ['hdr_beg(X-A) 1', ({ value }) => value.startsWith('1')],
  ['hdr(X-A) 2 12', ({ value }) => value === '2' || value === '12'],
  ['method GET', ({ method }) => method === 'GET'],
  ['method POST PUT', ({ method }) => method !== 'GET'],
  ['method PUT', ({ method }) => method === 'PUT'],
  ['src 10.0.0.0/8', ({ client }) => client.startsWith('10.')],
  ['src 10.1.0.0/16 127.0.0.1', ({ client }) => !client.startsWith('10.2') && !client.includes(':')],
  ['src 10.2.0.1', ({ client }) => client === '10.2.0.1'],
  ['src ::1', ({ client }) => client === '::1'],
]
const term = fc.record({ test: fc.constantFrom(...TESTS), not: fc.nat(3).map(each => each === 0) })
const rules = fc.array(fc.array(term, { minLength: 1, maxLength: 2 }), { minLength: 2, maxLength: 8 })
const asked = fc.record({
  host: fc.constantFrom('a.test', 'w.a.test', 'v.w.a.test', 'b.test'),
  path: fc.constantFrom('/', '/a', '/ab', '/a/b', '/a/b/c', '/a.php', '/a/x.php', '/b', '/A/b', '/x'),
  method: fc.constantFrom('GET', 'POST', 'PUT'),
  value: fc.constantFrom('', '1', '12', '2'),
  client: fc.constantFrom('10.1.0.1', '10.2.0.1', '127.0.0.1', '::1'),
})

it('the first of many rules that fits a request leads it', () => {
  fc.assert(
    fc.property(rules, fc.array(asked, { minLength: 20, maxLength: 20 }), (all, requests) => {
      const lines = all.map((terms, at) => {
        const tests = terms.map(({ test: [text], not }) => `${not ? '!' : ''}{ ${text} }`)
        return `use_backend b${at} if ${tests.join(' ')}`
      })
      const answer = answersOf(haproxy(lines))
      for (const each of requests) {
        const { host, path, method, value, client } = each
        const first = all.findIndex(terms => terms.every(({ test: [, holds], not }) => holds(each) !== not))
        const fields = value === '' ? [] : [`X-A: ${value}`]
        const got = answer(path, { host, method, client, fields })
        expect([lines, each, got]).toEqual([lines, each, first < 0 ? 'last' : `b${first}`])
      }
    }),
    { numRuns: 40 },
  )
})

it('rules that make 4,000 routes are translated in the time of a few looks at each', () => {
  const values = (count: number, name: string) =>
    Array.from({ length: count }, (_, at) => `${name}${at}`).join(' ')
  const before = process.cpuUsage().user
  const { document } = haproxy([
    `http-request set-header X-B own if { path_beg ${values(31, '/p')} }`,
    `use_backend b0 if { hdr(X-A) ${values(80, 'v')} }`,
  ])
  expect(document.routes).toHaveLength(4_293)
  // To compare each pair took 13 s.
  expect((process.cpuUsage().user - before) / 1e6).toBeLessThan(6)
})
