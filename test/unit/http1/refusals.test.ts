import { describe, expect, it } from 'vitest'
import { Framing, REFUSAL_REASONS, type RefusalReason } from '../../../src/http1/index.js'
import { readRequest, readResponse, refusal, requestWith, responseWith } from '../../http1-support/read.js'

const request = (...lines: string[]) => readRequest(requestWith(...lines))
const line = (text: string) => readRequest(`${text}\r\nHost: a\r\n\r\n`)
const chunked = (text: string) => Framing.chunked('request').advance(Buffer.from(text), 0, text.length)

/** One message for every reason: the type makes the table complete. */
const EXAMPLES: Record<RefusalReason, [status: number, read: () => unknown]> = {
  'request-line': [400, () => line('GET  / HTTP/1.1')],
  'method-unsupported': [501, () => line('get / HTTP/1.1')],
  'target-invalid': [400, () => line('GET a HTTP/1.1')],
  'target-too-long': [414, () => line(`GET /${'a'.repeat(8192)} HTTP/1.1`)],
  'version-unsupported': [505, () => line('GET / HTTP/2.0')],
  'status-line': [502, () => readResponse('HTTP/1.1 0 x\r\n\r\n')],
  'line-ending': [400, () => request('X: y\nZ: z')],
  'field-name': [400, () => request('X : y')],
  'field-folded': [400, () => request(' X: y')],
  'field-value': [400, () => request('X: \0')],
  'field-lookalike': [400, () => request('Content_Length: 5')],
  'head-too-large': [431, () => request(`X: ${'y'.repeat(16384)}`)],
  'fields-too-many': [431, () => request(...Array.from({ length: 100 }, () => 'X: y'))],
  'host-missing': [400, () => readRequest('GET / HTTP/1.1\r\n\r\n')],
  'host-repeated': [400, () => request('Host: a')],
  'host-invalid': [400, () => readRequest('GET / HTTP/1.1\r\nHost: a b\r\n\r\n')],
  'host-mismatch': [400, () => line('GET http://b/ HTTP/1.1')],
  'length-invalid': [400, () => request('Content-Length: +5')],
  'length-repeated': [400, () => request('Content-Length: 5', 'Content-Length: 5')],
  'coding-invalid': [400, () => request('Transfer-Encoding: xchunked')],
  'coding-unsupported': [501, () => request('Transfer-Encoding: gzip, chunked')],
  'coding-repeated': [400, () => request('Transfer-Encoding: chunked', 'Transfer-Encoding: chunked')],
  'coding-with-length': [400, () => request('Transfer-Encoding: chunked', 'Content-Length: 5')],
  'coding-in-http10': [400, () => readRequest('GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n')],
  'connection-invalid': [400, () => request('Connection: host')],
  'upgrade-invalid': [400, () => request('Upgrade: a b')],
  'expectation-unknown': [417, () => request('Expect: x')],
  'connect-with-body': [
    400,
    () => readRequest('CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n'),
  ],
  'body-forbidden': [502, () => readResponse('HTTP/1.1 103 x\r\nContent-Length: 1\r\n\r\n')],
  'switch-unasked': [
    502,
    () => readResponse('HTTP/1.1 101 x\r\n\r\n').framing({ method: 'GET', upgrade: false }),
  ],
  'chunk-size': [400, () => chunked('x')],
  'chunk-extension': [400, () => chunked('5; a')],
  'chunk-ending': [400, () => chunked('1\r\nab')],
  'trailer-invalid': [400, () => chunked('0\r\nX : y')],
  'trailer-forbidden': [400, () => chunked('0\r\nHost: a')],
  'trailers-too-large': [431, () => chunked(`0\r\nX: ${'y'.repeat(8192)}`)],
}

describe('a refusal', () => {
  it.each(REFUSAL_REASONS)('for %s has its code, status and a sentence with the byte', reason => {
    const [status, read] = EXAMPLES[reason]
    const error = refusal(read)
    expect([error.reason, error.status]).toEqual([reason, status])
    expect(error.code).toBe(`ERR_FDB_HTTP1_${reason.toUpperCase().replaceAll('-', '_')}`)
    expect(error.message).toContain(`at byte ${error.offset}:`)
  })

  it('of a response is always a 502', () => {
    expect(refusal(() => readResponse(responseWith('Transfer-Encoding: gzip, chunked'))).status).toBe(502)
  })
})
