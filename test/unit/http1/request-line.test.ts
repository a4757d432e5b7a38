import { describe, expect, it } from 'vitest'
import { RequestReader } from '../../../src/http1/index.js'
import { readRequest, refusal, requestReason, requestWith } from '../../http1-support/read.js'

const line = (text: string, ...fields: string[]) =>
  [text, ...(fields.length ? fields : ['Host: a']), '\r\n'].join('\r\n')

describe('RFC 9112, 2.2: message parsing', () => {
  it('passes over one empty line in front of a request', () => {
    expect(readRequest(`\r\n${requestWith()}`).target).toBe('/')
  })

  it('refuses a second empty line', () => {
    expect(requestReason(`\r\n\r\n${requestWith()}`)).toBe('request-line')
  })

  it.each(['\nGET / HTTP/1.1', '\rGET / HTTP/1.1', 'GET / HTTP/1.1\n', 'GET / HTTP/1.1\rHost: a'])(
    'refuses a bare CR or LF around the request line: %j',
    text => {
      expect(requestReason(`${text}\r\nHost: a\r\n\r\n`)).toBe('line-ending')
    },
  )

  it.each([' GET / HTTP/1.1', '\tGET / HTTP/1.1', '\0GET / HTTP/1.1', '\x16\x03\x01\x02\x00\x01'])(
    'refuses anything else in front of the method: %j',
    text => {
      expect(requestReason(line(text))).toBe('request-line')
    },
  )

  it('refuses white space between the request line and the first field', () => {
    expect(requestReason(line('GET / HTTP/1.1', ' Host: a'))).toBe('field-folded')
    expect(requestReason(line('GET / HTTP/1.1', '\tX: y', 'Host: a'))).toBe('field-folded')
  })

  it('refuses at the first bad byte, without waiting for the line or the head to end', () => {
    expect(refusal(() => new RequestReader().read(Buffer.from('GET /\x01')))).toMatchObject({
      reason: 'target-invalid',
      offset: 5,
    })
    expect(refusal(() => new RequestReader().read(Buffer.from('\x16\x03\x01')))).toMatchObject({ offset: 0 })
  })
})

describe('RFC 9112, 2.3: HTTP version', () => {
  it.each([
    ['1.0', 0],
    ['1.1', 1],
  ])('reads HTTP/%s', (version, minor) => {
    expect(readRequest(line(`GET / HTTP/${version}`)).minor).toBe(minor)
  })

  it.each(['HTTP/0.9', 'HTTP/1.2', 'HTTP/1.9', 'HTTP/2.0', 'HTTP/3.0', 'HTTP/2'])(
    'answers 505 to %s',
    version => {
      expect(refusal(() => readRequest(line(`GET / ${version}`)))).toMatchObject({
        reason: 'version-unsupported',
        status: 505,
      })
    },
  )

  it.each([
    'http/1.1',
    'HTTP/1,1',
    'HTTP/x.1',
    'HTTP/1.x',
    'HTTP 1.1',
    'HTTPS/1.1',
    'HTTP/',
    'HTTP/1.10',
    'HTTP/1.1x',
  ])('refuses what is no version: %s', version => {
    expect(requestReason(line(`GET / ${version}`))).toBe('request-line')
  })

  it('refuses the preface of HTTP/2', () => {
    expect(requestReason('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')).toBe('version-unsupported')
  })

  it('refuses HTTP/0.9', () => {
    expect(requestReason('GET /\r\n')).toBe('request-line')
    expect(requestReason('GET / \r\n')).toBe('request-line')
  })
})

describe('RFC 9112, 3: request line', () => {
  it.each([
    'GET  / HTTP/1.1',
    'GET /  HTTP/1.1',
    'GET\t/ HTTP/1.1',
    'GET / HTTP/1.1 ',
    'GET / HTTP/1.1\t',
    'GET / x HTTP/1.1',
    'GET',
    'GET ',
    'GET  HTTP/1.1',
    '/ HTTP/1.1',
  ])('allows one space between its parts and nothing else: %j', text => {
    expect(requestReason(line(text))).toBe('request-line')
  })

  it.each([
    'GET /\tHTTP/1.1',
    'GET /a\x0bb HTTP/1.1',
    'GET /\xe9 HTTP/1.1',
    'GET /\xe9?a HTTP/1.1',
    'GET /\x7f HTTP/1.1',
    'GET /\0 HTTP/1.1',
  ])('refuses controls, and bytes beyond ASCII in front of the query: %j', text => {
    expect(requestReason(line(text))).toBe('target-invalid')
  })
})

describe('RFC 9112, 3.1 and RFC 9110, 9.1: method', () => {
  it.each(['GET', 'POST', 'M-SEARCH', 'VERSION-CONTROL', 'BREW', 'X_Y2'])('takes %s', method => {
    expect(readRequest(line(`${method} / HTTP/1.1`)).method).toBe(method)
  })

  it.each(['get', 'Get', "G'T", 'G~', 'A'.repeat(33)])('answers 501 to the method %s', method => {
    expect(refusal(() => readRequest(line(`${method} / HTTP/1.1`)))).toMatchObject({
      reason: 'method-unsupported',
      status: 501,
    })
  })

  it.each(['G(T', 'G\0T', 'G\xe9T', 'G:T', '"GET"'])('refuses what is no token: %j', method => {
    expect(requestReason(line(`${method} / HTTP/1.1`))).toBe('request-line')
  })

  it('takes a method of 32 characters', () => {
    expect(readRequest(line(`${'A'.repeat(32)} / HTTP/1.1`)).method).toHaveLength(32)
  })
})

describe('RFC 9112, 3.2.1: origin form', () => {
  it.each([
    '/',
    '/a/b',
    '/a?b',
    '/?',
    '/a?b?c',
    '//a//b/../c',
    '/%2e%zz',
    "/-._~!$&'()*+,;=:@[]{}|^`",
    '/a?x\\y',
    '/"<>',
    '/a?q="<b>"',
    '/caf%C3%A9?q=\xc3\xa9\xff\x80',
  ])('takes %s', target => {
    expect(readRequest(line(`GET ${target} HTTP/1.1`))).toMatchObject({
      form: 'origin',
      target,
      resource: target,
    })
  })

  it.each(['a', '?', '*', 'a:80', '/#', '/a#b', '/a?b#c', '/a\x7f', '/a?\x7f', '/a\\b', '\\', '%2f'])(
    'refuses %s',
    target => {
      expect(requestReason(line(`GET ${target} HTTP/1.1`))).toBe('target-invalid')
    },
  )
})

describe('RFC 9112, 3.2.2: absolute form', () => {
  it.each([
    ['http://a/', '/', { host: 'a', port: undefined }],
    ['http://A', '/', { host: 'a', port: undefined }],
    ['HTTP://a:80/b?c', '/b?c', { host: 'a', port: 80 }],
    ['http://a?c', '/?c', { host: 'a', port: undefined }],
    ['http://a?c/d', '/?c/d', { host: 'a', port: undefined }],
    ['http://a:/b', '/b', { host: 'a', port: undefined }],
    ['https://a:443/x', '/x', { host: 'a', port: 443 }],
  ])('takes %s', (target, resource, authority) => {
    expect(readRequest(line(`GET ${target} HTTP/1.1`))).toMatchObject({
      form: 'absolute',
      resource,
      authority,
    })
  })

  it.each([
    'http:///',
    'http://',
    'http:/a',
    'http:a',
    'http://user@a/',
    'http://user:pw@a/',
    'http://a:65536/',
    'http://a:b/',
    'http://a,b/',
    'http://[::1/',
    'ftp://a/',
    'httpx://a/',
  ])('refuses %s', target => {
    expect(requestReason(line(`GET ${target} HTTP/1.1`))).toBe('target-invalid')
  })

  it.each(['b', 'a:81', 'a.', 'a:443', 'xa', '[::1]'])('refuses a Host that differs from it: %s', host => {
    expect(requestReason(line('GET http://a/ HTTP/1.1', `Host: ${host}`))).toBe('host-mismatch')
  })

  it.each(['a', 'A', 'a:80', 'a:'])('takes a Host that is the same: %s', host => {
    expect(requestReason(line('GET http://a/ HTTP/1.1', `Host: ${host}`))).toBeUndefined()
  })
})

describe('RFC 9112, 3.2.3: authority form', () => {
  it.each(['a:1', 'A.Example:443', '127.0.0.1:80', '[::1]:8080'])('takes CONNECT %s', target => {
    expect(readRequest(line(`CONNECT ${target} HTTP/1.1`, `Host: ${target}`))).toMatchObject({
      form: 'authority',
      target,
      resource: '',
    })
  })

  it.each(['a', 'a:', 'a:0', 'a:65536', '/', '*', 'http://a:80/', 'user@a:80', ':80', 'a:80/', '[::1]'])(
    'refuses CONNECT %s',
    target => {
      expect(requestReason(line(`CONNECT ${target} HTTP/1.1`))).toBe('target-invalid')
    },
  )

  it.each(['a:', '[::1]:'])('takes a Host whose port is empty: %s', host => {
    const { authority } = readRequest(line('GET / HTTP/1.1', `Host: ${host}`))
    expect(authority).toEqual({ host: host.slice(0, -1), port: undefined })
  })

  it('refuses a Host that names another place', () => {
    expect(requestReason(line('CONNECT a:443 HTTP/1.1', 'Host: b:443'))).toBe('host-mismatch')
    expect(requestReason(line('CONNECT a:443 HTTP/1.1', 'Host: a:80'))).toBe('host-mismatch')
    expect(requestReason(line('CONNECT a:443 HTTP/1.1', 'Host: a'))).toBeUndefined()
  })
})

describe('RFC 9112, 3.2.4: asterisk form', () => {
  it('counts for OPTIONS only', () => {
    expect(readRequest(line('OPTIONS * HTTP/1.1'))).toMatchObject({ form: 'asterisk', resource: '*' })
    expect(requestReason(line('GET * HTTP/1.1'))).toBe('target-invalid')
    expect(requestReason(line('OPTIONS ** HTTP/1.1'))).toBe('target-invalid')
  })

  it('follows from an absolute OPTIONS without path', () => {
    expect(readRequest(line('OPTIONS http://a HTTP/1.1')).resource).toBe('*')
    expect(readRequest(line('OPTIONS http://a/ HTTP/1.1')).resource).toBe('/')
    expect(readRequest(line('OPTIONS http://a?b HTTP/1.1')).resource).toBe('/?b')
  })
})

describe('RFC 9112, 3.2 and RFC 9110, 7.2: Host', () => {
  it.each([
    ['a', { host: 'a', port: undefined }],
    ['A.Example:8080', { host: 'a.example', port: 8080 }],
    ['127.0.0.1', { host: '127.0.0.1', port: undefined }],
    ['[2001:DB8::1]:1', { host: '[2001:db8::1]', port: 1 }],
    ['a_b-c.d~e:65535', { host: 'a_b-c.d~e', port: 65535 }],
  ])('reads %s', (host, authority) => {
    expect(readRequest(line('GET / HTTP/1.1', `Host: ${host}`)).authority).toEqual(authority)
  })

  it('differs from another one of the same length, also where far more were named than are remembered', () => {
    // Each of the 512 remembered places has several of these 5,000 names.
    for (let round = 0; round < 2; round++)
      for (let n = 0; n < 5_000; n++) {
        const host = `h${String(n).padStart(5, '0')}.example`
        expect(readRequest(line('GET / HTTP/1.1', `Host: ${host}`)).authority?.host).toBe(host)
      }
  })

  it.each([
    '',
    ' ',
    ':80',
    ':',
    'a:b',
    'a:65536',
    'a:000080',
    'a:-1',
    'a:80:80',
    'user@a',
    'a@',
    'a b',
    'a,b',
    'a, b',
    'a;b',
    'a/b',
    '/a',
    'a?b',
    'a#b',
    'a\\b',
    'a%00b',
    'a\tb',
    'http://a',
    '[::1',
    '::1]',
    '::1',
    '[]',
    '[::1]a',
    '[::1]a:80',
    '[g::]',
    '[::1%25eth0]',
    '\xe9',
    '"a"',
    '*',
  ])('refuses %j', host => {
    expect(requestReason(line('GET / HTTP/1.1', `Host: ${host}`))).toBe('host-invalid')
  })

  it('must be there, once, in HTTP/1.1', () => {
    expect(requestReason('GET / HTTP/1.1\r\n\r\n')).toBe('host-missing')
    expect(requestReason('GET / HTTP/1.1\r\nHosts: a\r\n\r\n')).toBe('host-missing')
    expect(requestReason(line('GET / HTTP/1.1', 'Host: a', 'Host: b'))).toBe('host-repeated')
    expect(requestReason(line('GET / HTTP/1.1', 'Host: a', 'hOST: a'))).toBe('host-repeated')
  })

  it('may be missing in HTTP/1.0, but not repeated', () => {
    expect(readRequest('GET / HTTP/1.0\r\n\r\n').authority).toBeUndefined()
    expect(requestReason(line('GET / HTTP/1.0', 'Host: a', 'Host: a'))).toBe('host-repeated')
  })
})
