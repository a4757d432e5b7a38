import { describe, expect, it } from 'vitest'
import { type RequestHead, RequestReader } from '../../../src/http1/index.js'
import { Forwarder, RouteEdits, requestEdits } from '../../../src/relay/field-rules.js'
import { certificateLines, type ForwardedOptions } from '../../../src/relay/index.js'
import { rewriteRequest } from '../../http1-support/read.js'

const origin = { listener: 'l', scheme: 'https' } as const

function head(lines: string): RequestHead {
  return new RequestReader().read(Buffer.from(`GET / HTTP/1.1\r\n${lines}\r\n`, 'latin1'))!
}

const lines = (
  options: ForwardedOptions,
  client: string,
  request = 'Host: A.example:81\r\n',
  trusted = false,
): string =>
  Buffer.from(new Forwarder(options).lines(head(request), client, origin, trusted)).toString('latin1')

const THEIRS =
  'Host: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\nForwarded: for=1.1.1.1\r\n'

describe('the fields that tell a server about the client', () => {
  it('have address, scheme and host', () => {
    expect(lines({}, '9.9.9.9')).toBe(
      'X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example:81\r\n',
    )
  })

  it('have the host of each request, also where a client asks for another than before', () => {
    const forwarder = new Forwarder()
    const told = (host: string) => `${forwarder.lines(head(`Host: ${host}\r\n`), '9.9.9.9', origin)}`
    for (const host of ['a.example', 'b.example', 'a.example'])
      expect(/X-Forwarded-Host: (.*)\r\n/.exec(told(host))?.[1]).toBe(host)
  })

  it('become one Forwarded field on demand, with IPv6 in brackets and quotes', () => {
    const options = { xForwarded: false, forwarded: true }
    expect(lines(options, '::1')).toBe('Forwarded: for="[::1]";proto=https;host="a.example:81"\r\n')
    expect(lines(options, '9.9.9.9')).toBe('Forwarded: for=9.9.9.9;proto=https;host="a.example:81"\r\n')
  })

  it('say "unknown" for a client without an address', () => {
    expect(lines({ forwarded: true }, '')).toMatch(
      /^X-Forwarded-For: unknown\r\n[\s\S]*\r\nForwarded: for=unknown;/,
    )
  })

  const FORGED =
    'x-real-ip: 1.1.1.1\r\nX_Real_IP: 1.1.1.1\r\nX-Forwarded-Port: 1\r\nX-Forwarded_Port: 1\r\nProxy: http://evil\r\nX-Original-URL: /admin\r\nX_ORIGINAL_URL: /admin\r\nX-Rewrite-Url: /admin\r\n'

  it('lose the words that only a proxy in front may say, unless the client is trusted', () => {
    const request = head(`Host: a\r\n${FORGED}A: b\r\n`)
    expect(rewriteRequest(request, { edits: requestEdits() })).toBe(
      'GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n',
    )
    expect(rewriteRequest(request, { edits: requestEdits({}, true) })).toBe(
      `GET / HTTP/1.1\r\nHost: a\r\n${FORGED}A: b\r\n\r\n`,
    )
  })

  it('replaces what the client says', () => {
    expect(lines({ forwarded: true }, '9.9.9.9', THEIRS)).not.toMatch(/1\.1\.1\.1|: b\r|: http\r/)
  })

  it('stand behind those of a trusted relay in front', () => {
    expect(lines({ forwarded: true }, '9.9.9.9', THEIRS, true)).toBe(
      'X-Forwarded-For: 1.1.1.1, 2.2.2.2, 9.9.9.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\n' +
        'Forwarded: for=1.1.1.1, for=9.9.9.9;proto=https;host="a"\r\n',
    )
  })
})

describe('the fields about the certificate of a client', () => {
  const FORGED = 'X-Client-Cert-Verified: true\r\nx_client-cert_SUBJECT: CN=root\r\n'
  const rewritten = (certificates: ForwardedOptions['certificates'], trusted: boolean) =>
    rewriteRequest(head(`Host: a\r\n${FORGED}`), {
      edits: new RouteEdits({}, certificates).request({}, trusted),
    })

  it.each([
    [undefined, false, true],
    ['elsewhere', true, true],
    ['elsewhere', false, false],
    ['here', true, false],
    ['here', false, false],
  ] as const)('asked for %s pass from a client that is trusted (%s): %s', (certificates, trusted, pass) => {
    expect(rewritten(certificates, trusted)).toBe(`GET / HTTP/1.1\r\nHost: a\r\n${pass ? FORGED : ''}\r\n`)
  })

  it('have what the certificate says, each in one line', () => {
    const names = { subject: 'O=Ex\\, Inc\nOU=\u00e9\r\nCN= al\u{1f600}', issuer: 'CN=b' }
    const facts = { ...names, serialNumber: '0A', subjectAltName: 'DNS:a, URI:b', fingerprint256: 'AA:BB' }
    expect(`${certificateLines(facts)}`.split('\r\n')).toEqual([
      'X-Client-Cert-Verified: true',
      'X-Client-Cert-Subject: CN= al\\F0\\9F\\98\\80,OU=\\C3\\A9\\0D,O=Ex\\, Inc',
      'X-Client-Cert-Issuer: CN=b',
      'X-Client-Cert-Serial: 0A',
      'X-Client-Cert-San: DNS:a, URI:b',
      'X-Client-Cert-Fingerprint: aabb',
      '',
    ])
    expect(`${certificateLines(undefined)}`).toBe('X-Client-Cert-Verified: false\r\n')
  })

  it('follow the lines about the client', () => {
    const certificate = certificateLines(undefined)
    const forwarder = new Forwarder()
    const told = forwarder.lines(head('Host: a\r\n'), '9.9.9.9', { ...origin, certificate })
    expect(`${told}`).toBe(`${forwarder.lines(head('Host: a\r\n'), '9.9.9.9', origin)}${certificate}`)
  })
})

describe('the edits of a request', () => {
  it('remove every spelling of the forwarded fields', () => {
    const request = head(`${THEIRS}x_forwarded_for: 3\r\nX-Forwarded_Host: 4\r\nX-Kept: 5\r\n`)
    expect(rewriteRequest(request, { edits: requestEdits() })).toBe(
      'GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 5\r\n\r\n',
    )
  })

  it('keep the edits of the route', () => {
    const edits = requestEdits({ remove: ['X-Kept', 'Forwarded'], set: { 'X-New': '1' } })
    expect(rewriteRequest(head('Host: a\r\nX-Kept: 5\r\nForwarded: x\r\n'), { edits })).toBe(
      'GET / HTTP/1.1\r\nHost: a\r\nX-New: 1\r\n\r\n',
    )
  })
})
