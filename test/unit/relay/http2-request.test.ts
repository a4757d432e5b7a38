import { describe, expect, it } from 'vitest'
import { lastChunk, requestText } from '../../../src/relay/index.js'

const GET = [':method', 'GET', ':scheme', 'https', ':authority', 'a.test', ':path', '/x?y=1']

const text = (raw: readonly string[], ended = true) => requestText(raw, ended)?.text

describe('a request of HTTP/2 as text of HTTP/1.1', () => {
  it('has its target, its host first, and its fields in their order', () => {
    expect(text([...GET, 'accept', '*/*', 'x-a', '1', 'x-a', '2'])).toBe(
      'GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\nx-a: 1\r\nx-a: 2\r\n\r\n',
    )
  })

  it('has one cookie for its parts, and no field about the connection', () => {
    expect(text([...GET, 'cookie', 'a=1', 'x', 'y', 'cookie', 'b=2', 'te', 'trailers'])).toBe(
      'GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\nx: y\r\ncookie: a=1; b=2\r\n\r\n',
    )
  })

  it('has chunks if its body has no length, and Content-Length: 0 if servers expect a body', () => {
    const post = [':method', 'POST', ...GET.slice(2)]
    expect(requestText(post, false)).toMatchObject({ method: 'POST', chunked: true, takesTrailers: false })
    expect(text(post, false)).toMatch(/\r\ntransfer-encoding: chunked\r\n\r\n$/)
    expect(text(post)).toMatch(/\r\ncontent-length: 0\r\n\r\n$/)
    expect(requestText([...post, 'content-length', '5', 'te', 'trailers'], false)).toMatchObject({
      chunked: false,
      takesTrailers: true,
    })
    expect(text(GET)).not.toMatch(/content-length|transfer-encoding/)
  })

  it('asks for the authority with CONNECT', () => {
    const connect = [':method', 'CONNECT', ':authority', 'a.test:443']
    expect(requestText(connect, false)).toMatchObject({
      text: 'CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443\r\n\r\n',
      chunked: false,
    })
  })

  it('opens a WebSocket, with a key of its own', () => {
    const open = [':method', 'CONNECT', ':protocol', 'websocket', ...GET.slice(2)]
    const asked = requestText([...open, 'sec-websocket-key', 'x', 'sec-websocket-version', '13'], false)!
    expect(asked.text).toMatch(
      /^GET \/x\?y=1 HTTP\/1\.1\r\nhost: a\.test\r\nsec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: [A-Za-z0-9+/]{22}==\r\n\r\n$/,
    )
    expect(asked).toMatchObject({ method: 'GET', chunked: false })
    expect(asked.accept).toMatch(/^[A-Za-z0-9+/]{27}=$/)
    expect(requestText(GET, true)?.accept).toBeNull()
  })

  it('takes Host for a missing authority, and one that repeats it', () => {
    const bare = GET.filter((_, i) => i !== 4 && i !== 5)
    expect(text([...bare, 'host', 'b.test'])).toMatch(/\r\nhost: b\.test\r\n/)
    expect(text([...GET, 'host', 'A.test'])).toMatch(/^GET \S+ HTTP\/1\.1\r\nhost: a\.test\r\n\r\n$/)
  })

  it.each([
    ['another Host', [...GET, 'host', 'b.test']],
    ['a line end in a value', [...GET, 'x', 'a\r\nTransfer-Encoding: chunked']],
    ['a NUL in a value', [...GET, 'x', '\0']],
    ['a line end in the path', [':method', 'GET', ':authority', 'a', ':path', '/ HTTP/1.1\r\nx: y']],
    ['a space in the path', [':method', 'GET', ':authority', 'a', ':path', '/ HTTP/1.1']],
    ['a line end in the authority', [':method', 'GET', ':authority', 'a\nx: y', ':path', '/']],
    ['a space in the method', [':method', 'GET /', ':authority', 'a', ':path', '/']],
    ['no path', [':method', 'GET', ':authority', 'a']],
    ['no method', [':authority', 'a', ':path', '/']],
    ['a colon in a name', [...GET, 'content-length:5', 'x']],
    ['a capital in a name', [...GET, 'X', 'y']],
    ['a field without a name', [...GET, '', 'y']],
    ['an unknown field with a colon', [...GET, ':x', 'y']],
    ['a protocol without CONNECT', [...GET, ':protocol', 'websocket']],
    ['another protocol than WebSocket', [':method', 'CONNECT', ':protocol', 'x', ...GET.slice(2)]],
    ['extended CONNECT', [...GET, ':protocol', 'websocket']],
    ['Transfer-Encoding', [...GET, 'transfer-encoding', 'chunked']],
    ['Connection', [...GET, 'connection', 'close']],
    ['Upgrade', [...GET, 'upgrade', 'websocket']],
    ['TE with more than trailers', [...GET, 'te', 'gzip']],
  ])('cannot have %s', (_title, raw) => {
    expect(requestText(raw, true)).toBe(null)
  })

  it('ends with its trailers, unless they are malformed', () => {
    expect(lastChunk([])).toBe('0\r\n\r\n')
    expect(lastChunk(['x-sum', '1', 'x-n', '2'])).toBe('0\r\nx-sum: 1\r\nx-n: 2\r\n\r\n')
    expect(lastChunk(['x', 'a\r\nb'])).toBe(null)
    expect(lastChunk([':status', '200'])).toBe(null)
  })
})
