import { readFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { describe, it, onTestFinished } from 'vitest'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** The timer of an idle TCP connection of /proc/net/tcp that the kernel keeps for SO_KEEPALIVE. */
const KEEPALIVE_TIMER = '02'

/** The timer of the connection between these ports of the loopback, as its `local` end has it; undefined: there is none such. */
function timerOf(local: number, remote: number): string | undefined {
  const hex = (port: number) => port.toString(16).toUpperCase().padStart(4, '0')
  const lines = readFileSync('/proc/net/tcp', 'latin1').split('\n').slice(1)
  const fields = lines.map(line => line.trim().split(/ +/))
  const found = fields.find(([, at, to]) => at?.endsWith(`:${hex(local)}`) && to?.endsWith(`:${hex(remote)}`))
  return found?.[5]?.split(':')[0]
}

/** A server that never answers, so that its connection stays in use. */
async function silent(port: number) {
  const came: Socket[] = []
  const server = createServer(socket => {
    came.push(socket)
    socket.on('error', () => {}).resume()
  })
  await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    for (const socket of came) socket.destroy()
  })
  return came
}

describe.runIf(process.platform === 'linux')('the kernel looks after a connection of the proxy', () => {
  it('to each of several clients that it accepts at once', async () => {
    const port = await freePort()
    const came = await silent(port)
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [`http://127.0.0.1:${port}`] } },
      routes: [{ host: 'app', upstream: 'app' }],
    })
    const pid = await edge.next()
    await edge.signal('SIGSTOP', pid)
    const clients = await Promise.all(Array.from({ length: 6 }, () => edge.raw()))
    for (const client of clients) client.send('GET / HTTP/1.1\r\nHost: app\r\n\r\n')
    await edge.signal('SIGCONT', pid)
    await until('all requests are under way', () => came.length === clients.length)
    const timers = () => clients.map(({ socket }) => timerOf(edge.port, socket.localPort!))
    await until(
      'all have the timer',
      () => timers().every(timer => timer === KEEPALIVE_TIMER),
      10_000,
      () => timers(),
    )
  })

  it('to a server, by address and by name, and to a client, in the clear and in TLS', async () => {
    const port = await freePort()
    const secure = await freePort()
    const came = await silent(port)
    const edge = await Edge.prepare({
      upstreams: {
        address: { servers: [`http://127.0.0.1:${port}`] },
        name: { servers: [`http://localhost:${port}`] },
      },
      routes: ['address', 'name'].map(upstream => ({ host: upstream, upstream })),
    })
    const { listeners, tls } = edge.secured([edge.issue('localhost')]) as Record<string, object[]>
    edge.write({
      tls,
      listeners: [
        ...(edge.config.listeners as object[]),
        { ...listeners![0], name: 'https', address: `tcp://127.0.0.1:${secure}` },
      ],
    })
    await edge.next()
    const plain = await edge.raw()
    const client = connectTls({ port: secure, host: '127.0.0.1', rejectUnauthorized: false })
    onTestFinished(() => void client.destroy())
    plain.send('GET / HTTP/1.1\r\nHost: address\r\n\r\n')
    client.write('GET / HTTP/1.1\r\nHost: name\r\n\r\n')
    await until('both requests are under way', () => came.length === 2)
    const timers = () => [
      timerOf(edge.port, plain.socket.localPort!),
      timerOf(secure, client.localPort!),
      ...came.map(({ remotePort, localPort }) => timerOf(remotePort!, localPort!)),
    ]
    // For a moment the timer is that of what was sent.
    await until(
      'all have the timer',
      () => timers().every(timer => timer === KEEPALIVE_TIMER),
      10_000,
      () => timers(),
    )
  })
})
