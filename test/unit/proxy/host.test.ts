import { describe, expect, it } from 'vitest'
import { canonicalHost, requestHost } from '../../../src/proxy/routes/host.js'
import fc from '../../lanes/generated.js'

describe('a host pattern', () => {
  it.each([
    ['*', '*'],
    ['Example.COM', 'example.com'],
    ['example.com.', 'example.com'],
    ['*.Example.com', '*.example.com'],
    ['localhost', 'localhost'],
    ['my_service', 'my_service'],
    ['10.0.0.1', '10.0.0.1'],
    ['[::0001]', '[::1]'],
    ['münchen.de', 'xn--mnchen-3ya.de'],
    ['*.MÜNCHEN.de', '*.xn--mnchen-3ya.de'],
    [`${'a.'.repeat(126)}a`, `${'a.'.repeat(126)}a`],
    [`*.${'a.'.repeat(125)}a`, `*.${'a.'.repeat(125)}a`],
  ])('%s is %s', (given, expected) => {
    expect(canonicalHost(given)).toBe(expected)
  })

  it.each([
    ['', /write "\*" for every host/],
    ['a.com:443', /leave the port out/],
    ['::1', /in brackets, \[::1\]/],
    ['[::1]:80', /without a port/],
    ['[::zz]', /write \[ADDRESS\]/],
    ['a*.com', /a \* stands alone or as the whole first label/],
    ['a.*.com', /a \* stands alone/],
    ['**', /a \* stands alone/],
    ['*.10.0.0.1', /no hosts below it/],
    ['1.2.3', /ends like an IPv4 address/],
    ['a..b', /"" is not a label/],
    ['-a.com', /"-a" is not a label/],
    ['*.', /1 to 253 characters/],
    [`${'a'.repeat(64)}.com`, /is not a label/],
    ['a.'.repeat(128), /1 to 253/],
    [`*.${'a.'.repeat(126)}a`, /1 to 253/],
    ['http://a.com', /write only the name/],
    ['a b', /write only the name/],
    ['a%2eb', /write only the name/],
  ])('%s is refused', (given, why) => {
    const result = canonicalHost(given)
    expect(typeof result === 'string' ? result : result.why).toMatch(why)
  })

  it('in small letters is what it is in capitals', () => {
    const label = fc.oneof(
      fc.string({ unit: fc.constantFrom('a', '1', '-', '_', '*'), maxLength: 4 }),
      fc.constantFrom('a'.repeat(63), `a${'-'.repeat(61)}1`, `${'a'.repeat(64)}`),
    )
    fc.assert(
      fc.property(fc.array(label, { maxLength: 5 }), fc.constantFrom('', '*.'), (labels, prefix) => {
        const pattern = `${prefix}${labels.join('.')}`
        const [small, capital] = [pattern, pattern.toUpperCase()].map(canonicalHost)
        if (typeof capital !== 'string') expect(small).toHaveProperty('why')
        else expect(small).toBe(capital)
      }),
      { seed: 63, numRuns: 1000 },
    )
  })
})

describe('a request’s host', () => {
  it.each([
    ['example.com', 'example.com'],
    ['Example.Com:8080', 'example.com'],
    ['example.com.', 'example.com'],
    ['EXAMPLE.com.:80', 'example.com'],
    ['example.com..', 'example.com.'],
    ['[0:0::1]:80', '[::1]'],
    ['[::1', '[::1'],
    ['.', '.'],
    ['', ''],
    [':80', ''],
  ])('%s is looked up as %s', (given, expected) => {
    expect(requestHost(given)).toBe(expected)
  })
})
