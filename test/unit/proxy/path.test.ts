import { describe, expect, it } from 'vitest'
import { canonicalPath, plainEnd, readings, resourceFor } from '../../../src/proxy/routes/path.js'

describe('a path prefix', () => {
  it.each([
    ['/', '/'],
    ['/api', '/api'],
    ['/api/', '/api'],
    ['/%61pi', '/api'],
    ['/100%25', '/100%25'],
    ['/a%20b', '/a%20b'],
    ['/.well-known', '/.well-known'],
    ['/...', '/...'],
    ["/-._~!$&'()+,=:@", "/-._~!$&'()+,=:@"],
    ['/%40app%2Bx', '/@app+x'],
    ['/%2a', '/%2A'],
  ])('%s is %s', (given, expected) => {
    expect(canonicalPath(given)).toBe(expected)
  })

  it.each([
    ['', /must begin with \//],
    ['api', /must begin with \//],
    ['/a?b', /only the path is compared/],
    ['/a#b', /only the path is compared/],
    ['/a/*', /a prefix by itself/],
    ['/a;v=1', /parameters \(;\) are not compared/],
    ['/a//b', /one slash/],
    ['/a/../b', /must not contain NUL, or \. and \.\. as segments/],
    ['/a/%2e%2E/b', /must not contain NUL, or \. and \.\. as segments/],
    ['/.', /must not contain NUL, or \. and \.\. as segments/],
    ['/..%2Fb', /must not contain NUL, or \. and \.\. as segments/],
    ['/%', /%25 for the sign/],
    ['/%zz', /%25 for the sign/],
    ['/a%2fb', /servers do not agree about escaped slashes/],
    ['/a%5Cb', /servers do not agree/],
    ['/a%3bb', /servers do not agree/],
    ['/a%252fb', /servers do not agree/],
    ['/a%00', /must not contain NUL/],
    ['/a b', /" " must be percent-encoded; write %20/],
    ['/café', /"é" must be percent-encoded; write %C3%A9/],
    ['/😀', /write %F0%9F%98%80/],
    ['/\ud800', /must be percent-encoded$/],
    ['/a\\b', /must be percent-encoded; write %5C/],
    ['/"', /must be percent-encoded; write %22/],
    [`/${'a'.repeat(4096)}`, /4097 characters, at most 4096/],
  ])('%s is refused', (given, why) => {
    const result = canonicalPath(given)
    expect(typeof result === 'string' ? result : result.why).toMatch(why)
  })
})

describe('a path prefix with *', () => {
  it.each([
    ['/*', '/*'],
    ['/users/*/orders/', '/users/*/orders'],
    ['/%75sers/*/%2a/*', '/users/*/%2A/*'],
  ])('%s is %s', (given, expected) => {
    expect(canonicalPath(given, true)).toBe(expected)
  })

  it.each([
    ['/a/**', /write it without \*\*/],
    ['/a*', /a whole segment/],
    ['/*a/*', /a whole segment/],
    ['/*//a', /one slash/],
    ['/*/../a', /must not contain NUL/],
    [`/*${'/*'.repeat(8)}`, /more than 8 segments/],
  ])('%s is refused', (given, why) => {
    const result = canonicalPath(given, true)
    expect(typeof result === 'string' ? result : result.why).toMatch(why)
  })
})

describe('a request’s path', () => {
  it.each([
    ['/a/b?c=/../d', '/a/b'],
    ['/a#/../b', '/a'],
    ['/a/b/', '/a/b'],
    ['*', '/'],
    ['/%61dmin', '/admin'],
    ['/%2561dmin', '/%2561dmin'],
    ['/a%2fb', '/a%2Fb'],
    ['/%7e%5F%2d', '/~_-'],
    ['//admin', '/admin'],
    ['/a///b//', '/a/b'],
    ['//', '/'],
    ['/admin;v=1/x;y', '/admin/x'],
    ['/;x/admin', '/admin'],
    ['/%3Badmin', '/%3Badmin'],
    ['/.well-known/x', '/.well-known/x'],
    ['/...', '/...'],
    ['/..a', '/..a'],
    ['/a..', '/a..'],
    ['/%', '/%'],
    ['/\xe9', '/%E9'],
    ['/caf\xc3\xa9', '/caf%C3%A9'],
    ['/a"b', '/a%22b'],
    ['/<a>', '/%3Ca%3E'],
    ["/!$&'()+,=:@", "/!$&'()+,=:@"],
    ['/%21%24%26%27%28%29%2b%2c%3d%3a%40', "/!$&'()+,=:@"],
    ['/a*', '/a%2A'],
    ['/a%2a', '/a%2A'],
    ['/[]{}|^`', '/%5B%5D%7B%7D%7C%5E%60'],
  ])('%s is compared as %s', (given, expected) => {
    expect(readings(given)?.[0]).toBe(expected)
    const end = plainEnd(given)
    if (end >= 0) expect([expected, `${expected}/`]).toContain(given.slice(0, end))
  })

  it.each([
    '/..',
    '/../a',
    '/a/..',
    '/a/./b',
    '/.',
    '/%2e',
    '/%2E%2e/a',
    '/.%2e/a',
    '/a/..;x=1/b',
    '/..;/b',
    '/a;/../b',
    '/a/..%2fb',
    '/a%2f..%2Fb',
    '/a/..%5cb',
    '/a%5c..',
    '/..%3b/b',
    '/%252e%252E/b',
    '/%2%65%2%65/b',
    '/%2%65',
    '/a%00b',
    '/a%2500b',
    '/a\\b',
    '/a/..\\b',
    '',
    'admin',
    'http://a/b',
    '?a',
  ])('%s is refused', given => {
    expect(readings(given)).toBeNull()
    expect(plainEnd(given)).toBe(-1)
  })
})

describe('the readings of a path', () => {
  it.each<[string, string[]]>([
    ['/a%20b', ['/a%20b']],
    ['/caf%C3%A9', ['/caf%C3%A9']],
    ['/100%25', ['/100%25']],
    ['/a%2fb', ['/a%2Fb', '/a/b']],
    ['/a%5Cb', ['/a%5Cb', '/a/b']],
    ['/%2Fa', ['/%2Fa', '/a']],
    ['/a%3bv/b', ['/a%3Bv/b', '/a/b']],
    ['/a%252Fb', ['/a%252Fb', '/a/b']],
    ['/a%2fb%252Fc', ['/a%2Fb%252Fc', '/a/b%252Fc', '/a/b/c']],
    ['/%2561dmin', ['/%2561dmin', '/admin']],
    ['/%2540admin', ['/%2540admin', '/@admin']],
    ['/%252A', ['/%252A', '/%2A']],
    ['/%252561dmin', ['/%252561dmin', '/admin']],
    ['/%%361dmin', ['/%61dmin', '/admin']],
    ['/a%2%46b', ['/a%2Fb', '/a/b']],
    ['/50%2520x', ['/50%2520x', '/50%20x']],
  ])('%s: %j', (given, expected) => {
    expect(readings(given)).toEqual(expected)
  })
})

describe('the path for a server', () => {
  it.each([
    ['/api', '', '/api', '/'],
    ['/api', '', '/api/', '/'],
    ['/api', '', '/api?a=/api', '/?a=/api'],
    ['/api', '', '/api/users?a=1', '/users?a=1'],
    ['/api', '', '/api/api', '/api'],
    ['/api/v1', '', '/api/v1/x', '/x'],
    ['/api', '/v2', '/api', '/v2'],
    ['/api', '/v2', '/api/', '/v2/'],
    ['/api', '/v2', '/api/users?', '/v2/users?'],
    ['/api', '/v2', '/api?b', '/v2?b'],
    ['', '/v2', '/', '/v2/'],
    ['', '/v2', '/users', '/v2/users'],
    ['/api', '/v2', '*', '*'],
    ['/api', '/v2', '', ''],
  ])('without %j and with %j before it is, for %j, %j', (strip, add, sent, path) => {
    expect(resourceFor(strip, add)(sent)).toBe(path)
  })

  it.each([
    ['another spelling of the prefix', '//%61pi;v=1/%C3%A9/x', '/%C3%A9/x'],
    ['empty segments with parameters before it', '/;a/api/x', '/x'],
    ['several slashes behind it, which would name a host', '/api//evil.test/x', '/evil.test/x'],
    ['escapes, parameters and slashes further behind', '/api/a%2fb;c//d/?e//f', '/a%2fb;c//d/?e//f'],
  ])('keeps the rest of the client’s bytes: %s', (_what, sent, path) => {
    expect(resourceFor('/api')(sent)).toBe(path)
  })
})
