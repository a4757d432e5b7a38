import { once } from 'node:events'
import type http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, it, onTestFinished, vi } from 'vitest'
import { bindSocket, type OwnedFd } from '../../../src/kernel/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { pause, until } from '../../processes/until.js'

const EACH_WAY_MS = 25

async function served(
  name: string,
  tls: http2.SecureServerOptions | null = null,
): Promise<{ port: number; served: AttachedServer; fd: OwnedFd }> {
  const answer = (request: http2.Http2ServerRequest, response: http2.Http2ServerResponse) => {
    request.resume()
    response.end(name)
  }
  const server = tls === null ? http2.createServer(answer) : http2.createSecureServer(tls, answer)
  const one = new AttachedServer(server)
  const fd = bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 32 }, 'a listener')
  await one.attach(fd, 32)
  onTestFinished(() => {
    one.cut()
    one.release()
    server.close()
    fd.close()
  })
  return { port: (server.address() as net.AddressInfo).port, served: one, fd }
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

it('a client that answers no ping is told the end when what it has sent in time is read', async () => {
  const { port, served: one } = await served('old')
  const client = net.connect(port, '127.0.0.1')
  onTestFinished(() => void client.destroy())
  let got = ''
  client.setEncoding('latin1').on('data', text => (got += text))
  client.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
  // Empty SETTINGS, and the acknowledgement of the server's.
  client.write(Buffer.from('000000040000000000000000040100000000', 'hex'))
  await until('it is there', () => one.connections === 1)
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const goaway = new Promise(resolve => client.once('data', resolve))
  one.announce()
  await goaway
  // GET / of x, in the turn in which the time for the answer is over.
  await new Promise(resolve => setImmediate(resolve))
  client.write(Buffer.from('000006010500000001828684410178', 'hex'))
  vi.advanceTimersByTime(5_000)
  vi.useRealTimers()
  await once(client, 'end')
  expect(got).toContain('old')
})

const SECURE = { key: KEY, cert: CERTIFICATE, allowHTTP1: true }

function connectSecurely(port: number): http2.ClientHttp2Session {
  const session = http2.connect(`https://127.0.0.1:${port}`, { rejectUnauthorized: false })
  onTestFinished(() => session.destroy())
  return session
}

async function answerOn(session: http2.ClientHttp2Session): Promise<string> {
  return await text(session.request())
}

it.each(['TLSv1.2', 'TLSv1.3'] as const)(
  'over %s the first GOAWAY refuses no stream either',
  async version => {
    const { port, served: one } = await served('old', { ...SECURE, minVersion: version, maxVersion: version })
    const session = connectSecurely(port)
    expect(await answerOn(session)).toBe('old')
    const lastStreams: number[] = []
    session.on('goaway', (_code, last) => lastStreams.push(last))
    const closed = once(session, 'close')
    one.announce()
    // In flight when the client gets the GOAWAY.
    expect(await answerOn(session)).toBe('old')
    await closed
    expect(lastStreams[0]).toBe(2 ** 31 - 1)
    await until('the connection has ended', () => one.connections === 0)
  },
)

it('a client of HTTP/1 on the same port gets `Connection: close`', async () => {
  const { port, served: one } = await served('old', SECURE)
  const session = connectSecurely(port)
  expect(await answerOn(session)).toBe('old')
  one.announce()
  const response = await new Promise<http.IncomingMessage>(resolve => {
    https.get({ port, host: '127.0.0.1', rejectUnauthorized: false }, resolve)
  })
  expect(response.headers.connection).toBe('close')
  expect(await text(response)).toBe('old')
  await until('both have ended', () => one.connections === 0)
})

const SESSIONS = 20
const TIMES = { plainMs: 600_000, tlsMs: 600_000 }

/** A server, its clients after their first request, and those of them that were told to go. */
async function busy() {
  const { port, served: one, fd } = await served('old')
  const clients = Array.from({ length: SESSIONS }, () => http2.connect(`http://127.0.0.1:${port}`))
  const told = new Set<http2.ClientHttp2Session>()
  for (const client of clients) {
    onTestFinished(() => client.destroy())
    client.on('goaway', () => told.add(client))
  }
  await Promise.all(clients.map(answerOn))
  return { one, fd, clients, told }
}

it('sessions end one after the other, and those that were not told yet stay if the process serves again', async () => {
  const { one, fd, clients, told } = await busy()
  one.announce({ ...TIMES, why: 'replaced' })
  one.detach()
  await one.attach(fd, 32)
  await until('some have ended', () => told.size > 0 && one.connections === SESSIONS - told.size)
  const kept = clients.filter(client => !told.has(client))
  expect(kept.length).toBeGreaterThan(told.size)
  expect(await Promise.all(kept.map(answerOn))).toEqual(kept.map(() => 'old'))
})

it.each(['replaced', 'ended'] as const)('all sessions end where the process is %s', async why => {
  const { one, clients, told } = await busy()
  one.announce({ ...TIMES, why })
  await until('all have ended', () => one.connections === 0 && clients.every(({ destroyed }) => destroyed))
  expect(told.size).toBe(SESSIONS)
})
