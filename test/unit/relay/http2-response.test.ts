import { describe, expect, it } from 'vitest'
import { ResponseReader } from '../../../src/http1/index.js'
import { responseFields, singleFields, trailersOf } from '../../../src/relay/index.js'

function fieldsOf(...lines: string[]) {
  const text = `HTTP/1.1 200 OK\r\n${lines.map(line => `${line}\r\n`).join('')}\r\n`
  return { ...responseFields(new ResponseReader().read(Buffer.from(text, 'latin1'))!) }
}

describe('a response for HTTP/2', () => {
  it('has its status and its fields in lower case, without those of the connection', () => {
    expect(
      fieldsOf(
        'Content-Type: text/plain',
        'Connection: close',
        'Keep-Alive: x',
        'Transfer-Encoding: chunked',
      ),
    ).toEqual({ ':status': 200, 'content-type': 'text/plain' })
  })

  it('has all values of a field, and the first one where Node takes only one', () => {
    const fields = fieldsOf('Set-Cookie: a=1', 'Set-Cookie: b=2', 'ETag: "1"', 'ETag: "2"')
    expect(fields).toEqual({ ':status': 200, 'set-cookie': ['a=1', 'b=2'], etag: ['"1"', '"2"'] })
    expect({ ...singleFields(fields) }).toEqual({
      ':status': 200,
      'set-cookie': ['a=1', 'b=2'],
      etag: '"1"',
    })
  })

  it('has the trailers after its last content', () => {
    expect({ ...trailersOf('\r\n0\r\nGrpc-Status: 0\r\nX: a: b \r\n\r\n') }).toEqual({
      'grpc-status': '0',
      x: 'a: b',
    })
    expect({ ...trailersOf('000;x=y\r\n\r\n') }).toEqual({})
    expect({ ...trailersOf('0\r\nHTTP2-Settings: x\r\nTE: x\r\nX: y\r\n\r\n') }).toEqual({ x: 'y' })
  })
})
