import { describe, expect, it } from 'vitest'
import { readResponse, refusal, responseReason, responseWith } from '../../http1-support/read.js'

const status = (line: string) => `${line}\r\n\r\n`

describe('RFC 9112, 4: status line', () => {
  it.each([
    ['HTTP/1.1 200 OK', { minor: 1, status: 200, reason: 'OK' }],
    ['HTTP/1.0 404 Not Found', { minor: 0, status: 404, reason: 'Not Found' }],
    ['HTTP/1.1 599 ', { minor: 1, status: 599, reason: '' }],
    ['HTTP/1.1 100', { minor: 1, status: 100, reason: '' }],
    ['HTTP/1.1 200  two\tspaces caf\xe9 ', { minor: 1, status: 200, reason: ' two\tspaces caf\xe9 ' }],
  ])('reads %j', (line, expected) => {
    expect(readResponse(status(line))).toMatchObject(expected)
  })

  it.each([
    'HTTP/1.1 20 OK',
    'HTTP/1.1 2000 OK',
    'HTTP/1.1 099 OK',
    'HTTP/1.1 000 OK',
    'HTTP/1.1 600 OK',
    'HTTP/1.1 -20 OK',
    'HTTP/1.1 +20 OK',
    'HTTP/1.1 2x0 OK',
    'HTTP/1.1  200 OK',
    'HTTP/1.1\t200 OK',
    'HTTP/1.1 200OK',
    'HTTP/1.1 200\tOK',
    'HTTP/1.1 200 O\0K',
    'HTTP/1.1 200 \x0b',
    'HTTP/1.1 200 \x7f',
    'HTTP/1.1',
    'HTTP/1.1 ',
    'http/1.1 200 OK',
    'HTTP/1.10 200 OK',
    'ICY 200 OK',
    '200 OK',
    '\r\nHTTP/1.1 200 OK',
    ' HTTP/1.1 200 OK',
    'GET / HTTP/1.1',
  ])('refuses %j', line => {
    expect(responseReason(status(line))).toBe('status-line')
  })

  it.each(['HTTP/1.1 200 O\nK', 'HTTP/1.1 200 O\rK', 'HTTP/1.1 200\n', 'HTTP/1.1 200\r\r'])(
    'refuses %j',
    line => {
      expect(responseReason(status(line))).toBe('line-ending')
    },
  )

  it.each(['HTTP/1.2 200 OK', 'HTTP/0.9 200 OK', 'HTTP/2 200 OK'])('does not speak %s', line => {
    expect(responseReason(status(line))).toBe('version-unsupported')
  })

  it('leads to 502 whatever is wrong with a response', () => {
    expect(refusal(() => readResponse(status('HTTP/1.1 600 OK'))).status).toBe(502)
    expect(refusal(() => readResponse(responseWith('a b: c'))).status).toBe(502)
    expect(refusal(() => readResponse(responseWith('Content-Length: x'))).status).toBe(502)
    expect(refusal(() => readResponse(`HTTP/1.1 200 OK\r\nX: ${'a'.repeat(20_000)}`)).status).toBe(502)
  })
})

describe('RFC 9110, 15.2: interim responses', () => {
  it.each([100, 102, 103, 199])('%i is followed by another head', code => {
    expect(readResponse(status(`HTTP/1.1 ${code} x`)).interim).toBe(true)
  })

  it.each([101, 200, 204, 304, 500])('%i is not', code => {
    expect(readResponse(status(`HTTP/1.1 ${code} x`)).interim).toBe(false)
  })
})

describe('RFC 9110, 7.8 and 15.2.2: 101 Switching Protocols', () => {
  const switching = [
    'HTTP/1.1 101 Switching Protocols',
    'Connection: upgrade',
    'Upgrade: websocket',
    '\r\n',
  ].join('\r\n')

  it('opens a tunnel where an upgrade was asked for', () => {
    expect(readResponse(switching).framing({ method: 'GET', upgrade: true }).kind).toBe('tunnel')
  })

  it.each([
    ['to a request that asked for none', switching, false],
    ['without Upgrade', 'HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n', true],
    ['without Connection: upgrade', 'HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n', true],
    ['in HTTP/1.0', switching.replace('1.1', '1.0'), true],
    ['to HTTP/2', switching.replace('websocket', 'h2c'), true],
  ])('cannot be used %s', (_, text, upgrade) => {
    expect(refusal(() => readResponse(text).framing({ method: 'GET', upgrade })).reason).toBe(
      'switch-unasked',
    )
  })
})
