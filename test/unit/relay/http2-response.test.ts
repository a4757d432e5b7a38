import { once } from 'node:events'
import { connect, createServer, type IncomingHttpHeaders } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ResponseReader } from '../../../src/http1/index.js'
import { responseFields, sendFields, trailersOf } from '../../../src/relay/index.js'

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

  it('has all values of a field, and the first one where Node takes only one', async () => {
    const lines = ['Set-Cookie: a=1', 'Set-Cookie: b=2', 'ETag: "1"', 'ETag: "2"', 'Vary: A', 'Vary: B']
    const fields = fieldsOf(...lines, 'Age: 1', 'Age: 2')
    expect(fields).toMatchObject({ ':status': 200, etag: ['"1"', '"2"'] })
    const server = createServer()
    onTestFinished(() => void server.close())
    server.on('stream', stream => {
      sendFields(fields, given => stream.respond(given))
      stream.end()
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const session = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    onTestFinished(() => session.destroy())
    const [got] = (await once(session.request().resume(), 'response')) as [IncomingHttpHeaders]
    expect(got).toMatchObject({ etag: '"1"', age: '1', vary: 'A, B', 'set-cookie': ['a=1', 'b=2'] })
  })

  it('fails as Node fails it for another reason', () => {
    const refused = new Error('refused')
    const send = () => {
      throw refused
    }
    expect(() => sendFields(fieldsOf('A: 1', 'A: 2'), send)).toThrow(refused)
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
