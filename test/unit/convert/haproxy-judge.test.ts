import { expect, it } from 'vitest'
import { type Conversion, convert } from '../../../src/convert/convert.js'
import { judgeHaproxy } from '../../convert-support/haproxy-judge.js'
import { readingsOf } from '../../convert-support/haproxy-named.js'
import { withoutNamedRefusals } from '../../convert-support/named-refusals.js'
import type { Asked, Got } from '../../convert-support/places.js'

const from = (text: string): Conversion =>
  convert(text, { file: 'haproxy.cfg', language: 'haproxy', service: 'edge', included: () => [] })

const readings = (text: string) => [...readingsOf(text, from(text).remarks)].map(each => each.text)
const refusals = (of: string) => of.split('\n').filter(line => /deny|auth/.test(line))

it('of a refusal by a list nothing is left, of one by a pattern the paths that it takes', () => {
  const reading = (test: string) => {
    const text = `defaults\n mode http\nfrontend web\n bind :80\n http-request auth if { ${test} } METH_GET\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
    const [first] = readings(text)
    return refusals(first!)
  }
  for (const test of ['path_beg -f paths.lst', 'path,lower -m beg /a'])
    expect(reading(test)).toEqual([' http-request auth if METH_GET'])
  expect(reading('path_reg ^/a/[^/]+/e$')).toEqual([
    ' http-request auth if { path_reg ^/a/[^/]+/e$ } METH_GET',
  ])
})

it('a part that closes one alternative and passes another is read as such in each', () => {
  const refusal = ' http-request deny if !{ path /a } { src 10.0.0.1 } or { path /a }'
  const text = `defaults\n mode http\nfrontend web\n bind :80\n http-request set-path /d\n${refusal}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
  const conversion = from(text)
  const [reading] = readings(text)
  expect(refusals(reading!)).toEqual([' http-request deny if { src 10.0.0.1 }'])
  expect(refusals(withoutNamedRefusals(text, conversion, 'haproxy'))).toEqual([
    ' http-request deny if !{ path /a } { src 10.0.0.1 }',
  ])
})

it('a refusal without a condition stays, whatever is named of it', () => {
  const text = `frontend web\n bind :80\n http-request deny\n`
  const line = { file: '', place: 3, text: 'http-request deny' }
  const why = 'no counterpart: path,lower -m beg /a'
  const remarks = [{ line, outcome: 'missing' as const, why, whys: [why] }]
  expect(withoutNamedRefusals(text, { ...from(text.replace('web', 'w')), remarks }, 'haproxy')).toBe(text)
})

it('a rule of a backend that is said for one frontend is read as written too', () => {
  const rule = ' http-request deny unless { hdr(host) a.test }'
  const front = (name: string, port: number, lines: string) =>
    `frontend ${name}\n bind :${port}\n${lines} default_backend app\n`
  const text = `defaults\n mode http\n${front('web', 80, ' http-request set-header Host b.test\n')}${front('other', 81, '')}backend app\n${rule}\n server s 10.0.0.1:80\n`
  const all = readings(text).map(refusals)
  expect(all[0]).toEqual([' http-request deny if { always_true }'])
  expect(all).toContainEqual([rule])
})

it('a header that some requests have from an earlier line is read as added beside another that is replaced', () => {
  const lines = [
    'http-request set-header X-B own if { path /a }',
    'http-response add-header X-A more',
    'http-request add-header X-B more',
  ]
  const text = `defaults\n mode http\nfrontend web\n bind :80\n ${lines.join('\n ')}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
  const headers = (of: string) => of.split('\n').filter(line => /add-header|set-header .*more/.test(line))
  const [first, ...others] = readings(text).map(headers)
  expect(first).toEqual([' http-response set-header X-A more', ' http-request set-header X-B more'])
  expect(others).toContainEqual([' http-response set-header X-A more', ' http-request add-header X-B more'])
})

it.each([
  ['https://%[hdr(host)]/x', []],
  ['https://c.test/x', ['wrong']],
])(
  'a redirect behind a refusal that is not said is compared without the values that are named: %s',
  async (target, kinds) => {
    const redirect = ` http-request redirect location ${target}`
    const text = `defaults\n mode http\nfrontend web\n bind :80\n tcp-request content reject if { src -f nets.lst }\n http-request set-header Host b.test\n${redirect}\n default_backend app\nbackend app\n server s 10.0.0.1:80\n`
    const got = (status: number, location: string | null): Got => {
      const server = status === 200 ? 'app' : null
      return { status, location, set: {}, body: '', server, seen: null }
    }
    const refused = got(403, null)
    // As HAProxy would answer.
    const answersTo = async (reading: string) => {
      if (reading.includes('reject')) return [refused]
      return [reading.includes('redirect') ? got(302, target.replace(/%.*]/, 'b.test')) : got(200, null)]
    }
    const places = { filled: (written: string) => written, answersTo }
    const asked: Asked[] = [
      { at: 'port', host: 'a.test', path: '/', method: 'GET', headers: {}, from: '127.0.0.1' },
    ]
    const ours = [got(302, 'https://a.test/x')]
    const { differences } = await judgeHaproxy(places, text, from(text), asked, [refused], ours)
    expect(differences.map(({ kind }) => kind)).toEqual(kinds)
  },
)
