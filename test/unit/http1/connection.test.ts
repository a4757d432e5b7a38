import { describe, expect, it } from 'vitest'
import {
  readRequest,
  readResponse,
  refusal,
  requestReason,
  requestWith,
  responseWith,
} from '../../http1-support/read.js'

const http10 = (...lines: string[]) => readRequest(['GET / HTTP/1.0', ...lines, '\r\n'].join('\r\n'))

describe('RFC 9112, 9.3: persistence', () => {
  it('stays the default of HTTP/1.1 until one side says close', () => {
    expect(readRequest(requestWith()).keepAlive).toBe(true)
    expect(readRequest(requestWith('Connection: close')).keepAlive).toBe(false)
    expect(readRequest(requestWith('Connection: x,CLOSE')).keepAlive).toBe(false)
    expect(readRequest(requestWith('Connection: keep-alive', 'Connection: close')).keepAlive).toBe(false)
    expect(readResponse(responseWith('Connection: close\t')).keepAlive).toBe(false)
    expect(readResponse(responseWith('Connection: closed')).keepAlive).toBe(true)
  })

  it('must be asked for in HTTP/1.0', () => {
    expect(http10().keepAlive).toBe(false)
    expect(http10('Connection: Keep-Alive').keepAlive).toBe(true)
    expect(http10('Connection: keep-alive, close').keepAlive).toBe(false)
  })
})

describe('RFC 9110, 7.6.1: Connection', () => {
  it('lists its options in small letters, over several lines, without empty elements', () => {
    const head = readRequest(requestWith('Connection: X-A, ,\tte ,', 'connection: b'))
    expect(head.connection).toEqual(['x-a', 'te', 'b'])
  })

  it.each(['a b', '(x)', 'a;b', '"close"', 'a=b', 'close\xff', 'a/b', 'close,\xa0'])('refuses %j', value => {
    expect(requestReason(requestWith(`Connection: ${value}`))).toBe('connection-invalid')
  })

  it.each(['Host', 'close, content-length', 'Transfer-Encoding'])(
    'refuses to have a field taken away that routes or frames: %s',
    value => {
      expect(requestReason(requestWith(`Connection: ${value}`))).toBe('connection-invalid')
    },
  )
})

describe('RFC 9110, 7.8: Upgrade', () => {
  const upgrade = (...lines: string[]) => readRequest(requestWith(...lines)).upgrade

  it('counts only where Connection names it', () => {
    expect(upgrade('Connection: Upgrade', 'Upgrade: websocket')).toBe('websocket')
    expect(upgrade('Upgrade: a/1, b', 'Connection: x, upgrade', 'Upgrade: c')).toBe('a/1, b, c')
    expect(upgrade('Upgrade: websocket')).toBeUndefined()
    expect(upgrade('Connection: Upgrade')).toBeUndefined()
    expect(upgrade('Connection: Upgrade', 'Upgrade:')).toBeUndefined()
  })

  it('does not count in HTTP/1.0', () => {
    expect(http10('Connection: upgrade', 'Upgrade: websocket').upgrade).toBeUndefined()
  })

  it('never is h2c, which would carry requests past the routes', () => {
    expect(upgrade('Connection: Upgrade', 'Upgrade: h2c')).toBeUndefined()
    expect(upgrade('Connection: Upgrade', 'Upgrade: H2C, websocket')).toBe('websocket')
  })

  it.each(['a b', 'a/b/c', '/1', 'a/', '(x)', '"websocket"'])('refuses %j', value => {
    expect(requestReason(requestWith(`Upgrade: ${value}`))).toBe('upgrade-invalid')
  })
})

describe('RFC 9110, 10.1.1: Expect', () => {
  it('knows 100-continue, in any case and version', () => {
    expect(requestReason(requestWith('Expect: 100-Continue'))).toBeUndefined()
    expect(() => http10('Expect: 100-continue')).not.toThrow()
  })

  it.each(['', '200', '100-continue, x', '100-continue;q=1', '100 continue'])('answers 417 to %j', value => {
    expect(refusal(() => readRequest(requestWith(`Expect: ${value}`)))).toMatchObject({
      reason: 'expectation-unknown',
      status: 417,
    })
  })
})
