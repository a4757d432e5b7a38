import { once } from 'node:events'
import http2 from 'node:http2'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { pause, until } from '../../processes/until.js'

const EACH_WAY_MS = 25

async function served(name: string): Promise<{ port: number; served: AttachedServer }> {
  const server = http2.createServer((request, response) => {
    request.resume()
    response.end(name)
  })
  const one = new AttachedServer(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    one.cut()
    one.release()
    server.close()
  })
  return { port: (server.address() as net.AddressInfo).port, served: one }
}

const PREFACE_BYTES = 24
const HEADERS = 1

/** Tells of each request in what one client sends. */
function requestsIn(tell: () => void): (chunk: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0)
  let at = PREFACE_BYTES
  return chunk => {
    rest = Buffer.concat([rest, chunk])
    while (rest.length >= at + 9) {
      if (rest[at + 3] === HEADERS) tell()
      at += 9 + rest.readUIntBE(at, 3)
    }
  }
}

/** A path on which every byte takes its time. */
async function far(port: () => number, onRequest: () => void): Promise<number> {
  const relay = net.createServer(client => {
    const server = net.connect(port(), '127.0.0.1')
    client.on('data', requestsIn(onRequest))
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.on('data', chunk => setTimeout(() => to.write(chunk), EACH_WAY_MS))
      from.on('end', () => setTimeout(() => to.end(), EACH_WAY_MS))
      from.on('error', () => {})
    }
  })
  relay.listen(0, '127.0.0.1')
  await once(relay, 'listening')
  onTestFinished(() => void relay.close())
  return (relay.address() as net.AddressInfo).port
}

it('no request that crosses the GOAWAY fails, 25 ms each way, at 100 requests a second', async () => {
  const [old, young] = [await served('old'), await served('new')]
  let target = old
  let sent = 0
  const port = await far(
    () => target.port,
    () => sent++,
  )
  const answers = { old: 0, new: 0 }
  const failed: unknown[] = []
  const lastStreams: number[] = []
  let session: http2.ClientHttp2Session
  const open = (): http2.ClientHttp2Session => {
    const one = http2.connect(`http://127.0.0.1:${port}`)
    one.on('error', error => failed.push(error))
    one.on('goaway', (_code, last) => {
      if (one.closed && session !== one) lastStreams.push(last)
      else {
        lastStreams.push(last)
        session = open()
      }
    })
    onTestFinished(() => one.destroy())
    return one
  }
  session = open()
  let made = 0
  const post = () => {
    made++
    const stream = session.request({ ':method': 'POST' })
    let body = ''
    stream.setEncoding('utf8')
    stream.on('data', chunk => (body += chunk))
    stream.on('error', error => failed.push(error))
    stream.on('end', () => body !== '' && answers[body as 'old' | 'new']++)
    stream.end('x')
  }
  const pace = setInterval(post, 10)
  onTestFinished(() => clearInterval(pace))
  await until('the old one answers', () => answers.old > 20)
  target = young
  old.served.announce()
  await until('the new one answers', () => answers.new > 20)
  clearInterval(pace)
  await until('all are answered', () => answers.old + answers.new + failed.length >= made)
  // Node's client writes a request at the end of a turn. Where a GOAWAY comes in the same turn it refuses it itself, and sends nothing.
  const refused = expect.objectContaining({ message: expect.stringContaining('NGHTTP2_REFUSED_STREAM') })
  expect(failed).toEqual(Array(made - sent).fill(refused))
  expect(answers.old + answers.new).toBe(sent)
  expect(lastStreams[0]).toBe(2 ** 31 - 1)
  await until('the old session has ended', () => old.served.connections === 0)
})

it('a session that begins while its server leaves is told to go', async () => {
  const { port, served: one } = await served('old')
  one.announce()
  const session = http2.connect(`http://127.0.0.1:${port}`)
  onTestFinished(() => session.destroy())
  await once(session, 'goaway')
  await until('it has ended', () => session.closed && one.connections === 0)
})

it('a client that answers no ping is told the end all the same', async () => {
  const { port, served: one } = await served('old')
  const client = net.connect(port, '127.0.0.1')
  onTestFinished(() => void client.destroy())
  // The preface and empty SETTINGS; it acknowledges nothing.
  client.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
  client.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]))
  await until('it is there', () => one.connections === 1)
  await pause(50)
  one.announce()
  client.resume()
  await once(client, 'end')
})
