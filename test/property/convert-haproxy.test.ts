import fc from 'fast-check'
import { expect, it } from 'vitest'
import { convert } from '../../src/convert/convert.js'
import { RequestReader } from '../../src/http1/index.js'
import { configFrom, type ProxyDocument } from '../../src/proxy/index.js'
import { RouteTable } from '../../src/proxy/routes/table.js'
import type { RouteTarget } from '../../src/proxy/routes/target.js'

interface Asked {
  readonly host: string
  readonly path: string
  readonly method: string
  readonly h: string | null
}

/** Tests as HAProxy writes them, and for which requests they hold there. */
const TESTS: readonly (readonly [string, (asked: Asked) => boolean])[] = [
  ['path_beg /a', ({ path }) => path === '/a' || path.startsWith('/a/')],
  ['path_beg /a/b', ({ path }) => path === '/a/b' || path.startsWith('/a/b/')],
  ['path /', ({ path }) => path === '/'],
  ['path /a /c', ({ path }) => path === '/a' || path === '/c'],
  ['path /a/b', ({ path }) => path === '/a/b'],
  ['hdr(host) a.x', ({ host }) => host === 'a.x'],
  ['hdr_end(host) .x', ({ host }) => host.endsWith('.x')],
  ['method GET POST', ({ method }) => method === 'GET' || method === 'POST'],
  ['METH_POST', ({ method }) => method === 'POST'],
  ['hdr(H) -m found', ({ h }) => h !== null],
  ['hdr(H) 1', ({ h }) => h === '1'],
  ['hdr_beg(H) 1', ({ h }) => h?.startsWith('1') === true],
]

interface Condition {
  readonly word: 'if' | 'unless'
  /** One of the terms must hold, with all of its tests. */
  readonly terms: readonly (readonly { readonly test: number; readonly not: boolean }[])[]
}

interface Rule {
  /** Null for a refusal. */
  readonly backend: 'b0' | 'b1' | null
  readonly condition: Condition | null
}

function textOf(condition: Condition | null): string {
  if (condition === null) return ''
  const terms = condition.terms.map(tests =>
    tests.map(({ test, not }) => `${not ? '!' : ''}{ ${TESTS[test]![0]} }`).join(' '),
  )
  return ` ${condition.word} ${terms.join(' or ')}`
}

function holds(condition: Condition | null, asked: Asked): boolean {
  if (condition === null) return true
  const any = condition.terms.some(tests => tests.every(({ test, not }) => TESTS[test]![1](asked) !== not))
  return any === (condition.word === 'if')
}

/** The backend that HAProxy takes; null if it refuses the request. */
function answerOf(
  rules: readonly Rule[],
  inBackend: Condition | null | undefined,
  asked: Asked,
): string | null {
  const first = (all: readonly Rule[]) => all.find(each => holds(each.condition, asked))
  if (first(rules.filter(({ backend }) => backend === null)) !== undefined) return null
  const backend = first(rules.filter(each => each.backend !== null))?.backend ?? 'rest'
  return backend === 'b0' && inBackend !== undefined && holds(inBackend, asked) ? null : backend
}

/** Null if a rule has no counterpart. */
function converted(rules: readonly Rule[], inBackend: Condition | null | undefined) {
  const server = (name: string) => `backend ${name}\n server s 127.0.0.1:1\n`
  const lines = rules.map(({ backend, condition }) =>
    backend === null ? `http-request deny${textOf(condition)}` : `use_backend ${backend}${textOf(condition)}`,
  )
  const guard = inBackend === undefined ? '' : ` http-request deny${textOf(inBackend)}\n`
  const text = `defaults\n mode http\n${server('b0')}${guard}${server('b1')}${server('rest')}frontend w\n bind 127.0.0.1:9000\n ${[...lines, 'default_backend rest'].join('\n ')}\n`
  const options = { file: 'haproxy.cfg', language: 'haproxy', service: 's', included: () => [] } as const
  const { document, remarks } = convert(text, options)
  if (remarks.some(({ why }) => /no counterpart:|until they have a guard/.test(why))) return null
  const table = new RouteTable<RouteTarget>()
  for (const { host, path, target } of configFrom(document as unknown as ProxyDocument).routes)
    table.put({ origin: 'file', host, path }, target)
  return ({ host, path, method, h }: Asked) => {
    const fields = [`Host: ${host}`, ...(h === null ? [] : [`H: ${h}`])]
    const bytes = Buffer.from(`${[`${method} ${path} HTTP/1.1`, ...fields].join('\r\n')}\r\n\r\n`)
    const found = table.lookup(host, path, '', new RequestReader().read(bytes, 0, bytes.length)!)
    if (typeof found === 'symbol') return 'none'
    return found.kind === 'upstream' ? found.upstream : null
  }
}

const ASKED: readonly Asked[] = ['a.x', 'b.x', 'y'].flatMap(host =>
  ['/', '/a', '/a/b', '/a/b/c', '/a/d', '/c', '/c/a', '/e'].flatMap(path =>
    ['GET', 'POST', 'PUT'].flatMap(method => [null, '1', '12', '2'].map(h => ({ host, path, method, h }))),
  ),
)

it('each request gets what the rules of HAProxy give it', () => {
  const test = fc.record({ test: fc.nat(TESTS.length - 1), not: fc.boolean() })
  const condition = fc.record({
    word: fc.constantFrom('if' as const, 'unless' as const),
    terms: fc.array(fc.array(test, { minLength: 1, maxLength: 2 }), { minLength: 1, maxLength: 2 }),
  })
  const rule = fc.record({
    backend: fc.constantFrom('b0' as const, 'b1' as const, null),
    condition: fc.option(condition, { freq: 8 }),
  })
  let compared = 0
  fc.assert(
    fc.property(
      fc.array(rule, { minLength: 1, maxLength: 3 }),
      fc.option(fc.option(condition), { nil: undefined }),
      (rules, inBackend) => {
        const found = converted(rules, inBackend)
        if (found === null) return
        compared += 1
        for (const each of ASKED)
          expect([each, found(each)]).toEqual([each, answerOf(rules, inBackend, each)])
      },
    ),
    { numRuns: 100 },
  )
  expect(compared).toBeGreaterThan(30)
})
