import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { formatListenerSpec, type ListenerOptions, parseListenerSpec } from '../../../src/listeners/index.js'
import { untyped } from '../../fixtures/untyped.js'
import fc from '../../lanes/generated.js'

describe('parseListenerSpec', () => {
  it.each([
    ['tcp://0.0.0.0:443', { kind: 'tcp', host: '0.0.0.0', port: 443, reuseAddr: true, backlog: 4096 }],
    ['tcp://[::1]:80', { host: '::1', port: 80, ipv6Only: true }],
    ['tcp://*:0', { host: '::', port: 0, ipv6Only: false }],
    ['tcp://[::]:80?ipv6Only=false', { ipv6Only: false }],
    ['tcp://1.2.3.4:5?reusePort&reuseAddr=0&backlog=9', { reusePort: true, reuseAddr: false, backlog: 9 }],
    ['udp://[::]:53', { kind: 'udp', host: '::', reuseAddr: false, backlog: 0, ipv6Only: true }],
    ['udp://127.0.0.1:53?reusePort=true', { reusePort: true, ipv6Only: false }],
    ['unix:/run/x.sock', { kind: 'unix', path: '/run/x.sock', abstract: false, backlog: 4096 }],
    ['unix:///run/x.sock', { path: '/run/x.sock' }],
    ['unix:/run/x.sock?mode=0660&uid=1&gid=33', { mode: 0o660, uid: 1, gid: 33 }],
    ['unix:/x?uid=4294967294&gid=4294967294', { uid: 2 ** 32 - 2, gid: 2 ** 32 - 2 }],
    ['unix:@name', { path: 'name', abstract: true }],
    ['unix:/a%3Fb%25c', { path: '/a?b%c' }],
  ])('reads %s', (text, expected) => {
    expect(parseListenerSpec(text)).toMatchObject(expected)
  })

  it('takes the object form, with the same defaults and checks', () => {
    expect(parseListenerSpec({ kind: 'tcp', host: '127.0.0.1', port: 0 })).toEqual(
      parseListenerSpec('tcp://127.0.0.1:0'),
    )
    expect(parseListenerSpec({ kind: 'tcp', host: '*', port: 0 })).toEqual(parseListenerSpec('tcp://*:0'))
    expect(parseListenerSpec({ kind: 'unix', path: '/a', mode: 0o600 })).toEqual(
      parseListenerSpec('unix:/a?mode=600'),
    )
  })

  it.each<[string | ListenerOptions, string, RegExp?]>([
    ['', 'kind'],
    ['http://1.2.3.4:80', 'kind', /tcp:\/\//],
    ['tcp:1.2.3.4:80', 'kind'],
    ['tcp://localhost:80', 'host', /127\.0\.0\.1 or \[::1\]/],
    ['tcp://example.org:80', 'host', /not resolved/],
    ['tcp://:80', 'host'],
    ['tcp://::1:80', 'host', /brackets/],
    ['tcp://[::g]:80', 'host'],
    ['tcp://1.2.3.4', 'port'],
    ['tcp://1.2.3.4:', 'port'],
    ['tcp://1.2.3.4:65536', 'port', /65535/],
    ['tcp://1.2.3.4:-1', 'port'],
    ['tcp://1.2.3.4:80/path', 'port'],
    ['tcp://1.2.3.4:80?reuse', 'options', /known: /],
    ['tcp://1.2.3.4:80?reusePort&reusePort', 'options', /twice/],
    ['tcp://1.2.3.4:80?reusePort=maybe', 'reusePort'],
    ['tcp://1.2.3.4:80?ipv6Only', 'ipv6Only'],
    ['tcp://1.2.3.4:80?backlog=0', 'backlog'],
    ['tcp://1.2.3.4:80?backlog=many', 'backlog'],
    ['tcp://1.2.3.4:80?mode=0600', 'mode'],
    ['udp://1.2.3.4:80?backlog=5', 'backlog'],
    ['unix:', 'path'],
    ['unix:@', 'path'],
    ['unix:run/x.sock', 'path', /absolute/],
    ['unix:/x%zz', 'path'],
    ['unix:/x%00', 'path', /NUL/],
    [`unix:/${'x'.repeat(107)}`, 'path', /108 bytes.*107/],
    ['unix:/x?mode=0888', 'mode', /octal/],
    ['unix:/x?mode=1777', 'mode'],
    ['unix:/x?uid=root', 'uid'],
    ['unix:/x?reusePort', 'reusePort'],
    ['unix:@x?mode=0600', 'mode'],
    [{ kind: untyped('tls') }, 'kind'],
    [untyped(null), 'kind'],
    [{ kind: 'tcp', host: '127.0.0.1' }, 'port', /missing/],
    [{ kind: 'tcp', host: '127.0.0.1', port: 1.5 }, 'port'],
    [{ kind: 'tcp', host: '127.0.0.1', port: 1, path: '/x' }, 'path'],
    [{ kind: 'unix', path: '/x', host: '1.2.3.4' }, 'host'],
    [{ kind: 'unix', path: '/x', gid: -1 }, 'gid'],
    // The last number means "no change" to chown().
    [{ kind: 'unix', path: '/x', uid: 2 ** 32 - 1 }, 'uid'],
    [{ kind: 'unix', path: '/x', gid: 2 ** 32 - 1 }, 'gid'],
  ])('refuses %j, naming its %s', (input, part, message = /./) => {
    try {
      parseListenerSpec(input)
      expect.unreachable()
    } catch (error) {
      expect(FdbError.is(error)).toBe(true)
      expect(error).toMatchObject({
        code: 'ERR_FDB_SPEC',
        details: { part },
        message: expect.stringMatching(message),
      })
    }
  })
})

describe('formatListenerSpec', () => {
  const flags = {
    reuseAddr: fc.boolean(),
    reusePort: fc.boolean(),
    backlog: fc.integer({ min: 1, max: 9999 }),
  }
  const port = fc.integer({ min: 0, max: 65535 })
  const name = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 40 })
    .filter(text => !text.includes('\0') && Buffer.byteLength(text) <= 106)
  const owner = { mode: fc.integer({ min: 0, max: 0o777 }), uid: port, gid: port }
  const backlog = { backlog: flags.backlog }
  const specs: fc.Arbitrary<ListenerOptions> = fc.oneof(
    fc.record({ kind: fc.constant('tcp' as const), host: fc.ipV4(), port, ...flags }),
    fc.record({ kind: fc.constant('tcp' as const), host: fc.ipV6(), port, ipv6Only: fc.boolean(), ...flags }),
    fc.record({ kind: fc.constant('udp' as const), host: fc.ipV6(), port, reusePort: fc.boolean() }),
    fc.record(
      { kind: fc.constant('unix' as const), path: name.map(text => `/${text}`), ...owner, ...backlog },
      { requiredKeys: ['kind', 'path'] },
    ),
    fc.record({ kind: fc.constant('unix' as const), path: name, abstract: fc.constant(true), ...backlog }),
  )

  it('writes what parseListenerSpec reads back to the same', () => {
    fc.assert(
      fc.property(specs, options => {
        const spec = parseListenerSpec(options)
        expect(parseListenerSpec(formatListenerSpec(spec))).toEqual(spec)
        expect(parseListenerSpec(spec)).toEqual(spec)
      }),
      { seed: 11, numRuns: 500 },
    )
  })

  it('leaves defaults out', () => {
    for (const text of ['tcp://0.0.0.0:80', 'udp://[::]:53', 'unix:/run/a.sock', 'unix:@a']) {
      expect(formatListenerSpec(parseListenerSpec(text))).toBe(text)
    }
  })
})
