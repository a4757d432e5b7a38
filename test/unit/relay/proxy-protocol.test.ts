import { describe, expect, it } from 'vitest'
import { proxyHeader, readProxyHeader } from '../../../src/relay/index.js'

const V4 = { client: '192.0.2.7', clientPort: 51_000, server: '198.51.100.1', serverPort: 443 }
const V6 = { client: '2001:db8::1:0:7', clientPort: 1, server: '2001:db8::', serverPort: 65_535 }

describe('a PROXY header', () => {
  it.each([
    ['v1', V4, 'PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n'],
    ['v1', V6, 'PROXY TCP6 2001:db8::1:0:7 2001:db8:: 1 65535\r\n'],
    ['v1', null, 'PROXY UNKNOWN\r\n'],
    ['v1', { ...V4, server: V6.server }, 'PROXY UNKNOWN\r\n'],
    ['v2', V4, '\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc7\x38\x01\xbb'],
    ['v2', null, '\r\n\r\n\0\r\nQUIT\n\x20\0\0\0'],
  ] as const)('of version %s for %o has the bytes of the specification', (version, addresses, text) => {
    expect(proxyHeader(version, addresses).toString('latin1')).toBe(text)
  })

  it('gives back its addresses, whatever follows and however it arrives', () => {
    for (const version of ['v1', 'v2'] as const)
      for (const addresses of [V4, V6, null]) {
        const header = proxyHeader(version, addresses)
        const bytes = Buffer.concat([header, Buffer.from('GET / HTTP/1.1\r\n')])
        for (let end = 0; end < header.length; end++)
          expect(readProxyHeader(bytes.subarray(0, end))).toBe(null)
        expect(readProxyHeader(bytes)).toEqual({ length: header.length, addresses })
      }
  })

  it('has link-local addresses without their zone', () => {
    const local = { ...V6, client: 'fe80::7', server: 'fe80::1' }
    const zoned = { ...V6, client: 'fe80::7%eth0', server: 'fe80::1%eth0' }
    for (const version of ['v1', 'v2'] as const)
      expect(readProxyHeader(proxyHeader(version, zoned))).toMatchObject({ addresses: local })
  })

  it('may have fields behind its addresses', () => {
    const header = proxyHeader('v2', V4)
    header.writeUInt16BE(12 + 5, 14)
    const bytes = Buffer.concat([header, Buffer.from([4, 0, 2, 1, 1]), Buffer.from('rest')])
    expect(readProxyHeader(bytes.subarray(0, -5))).toBe(null)
    expect(readProxyHeader(bytes)).toEqual({ length: header.length + 5, addresses: V4 })
  })

  it.each([
    ['GET / HTTP/1.1\r\n', /does not begin with PROXY/],
    ['PROXZ', /does not begin with PROXY/],
    ['PROXY TCP4 192.0.2.7 198.51.100.1 51000\r\n', /addresses .* wrong/],
    ['PROXY TCP4 192.0.2.7 2001:db8:: 1 2\r\n', /addresses .* wrong/],
    ['PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n', /addresses .* wrong/],
    ['PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n', /addresses .* wrong/],
    [`PROXY TCP6 ${'f'.repeat(120)}`, /too long/],
    ['\r\n\r\n\0\r\nQUIX', /signature/],
    ['\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c', /version or command/],
    ['\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff', /too long/],
    ['\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd', /too short/],
  ])('can be wrong: %j', (text, why) => {
    expect(readProxyHeader(Buffer.from(text, 'latin1'))).toMatch(why)
  })
})
