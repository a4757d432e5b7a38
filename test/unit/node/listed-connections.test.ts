import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { accept, inspectOne } from '../../../src/kernel/index.js'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import { AttachedServer } from '../../../src/member/listeners/attached-server.js'
import { connectionListener } from '../../../src/node/http-connections.js'
import { replay } from '../../../src/node/observed-events.js'
import { giveAccepted, stopListening } from '../../../src/node/server-connections.js'
import { until } from '../../processes/until.js'

const GET = (path: string) => `GET ${path} HTTP/1.1\r\nHost: shop\r\n\r\n`
const UPGRADE = 'GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n'

/** A server whose responses wait, attached before or after it listens, and how it is asked. */
async function attached(prepare: (server: http.Server) => void = () => {}) {
  const responses: http.ServerResponse[] = []
  const server = http.createServer((_request, response) => responses.push(response))
  prepare(server)
  const served = new AttachedServer(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    served.cut()
    served.release()
    server.close()
  })
  const client = async (...texts: string[]) => {
    const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    let answer = ''
    socket.setEncoding('latin1').on('data', text => (answer += text))
    onTestFinished(() => void socket.destroy())
    const before = responses.length
    const taken = once(server, 'connection')
    for (const text of texts) socket.write(text)
    await taken
    const wanted = texts.filter(text => !text.startsWith('GET /ws') && text.endsWith('\r\n\r\n')).length
    await until('its requests are there', () => responses.length === before + wanted)
    return { socket, answer: () => answer }
  }
  return { server, served, responses, client }
}

it('a connection costs no event listener while the server only serves', async () => {
  const { server, served, client } = await attached()
  await client(GET('/'))
  expect([server.listenerCount('connection'), server.listenerCount('request')]).toEqual([1, 1])
  expect(served.connections).toBe(1)
  expect(served.kinds()).toEqual({ answering: 1 })
  served.announce()
  expect([server.listenerCount('connection'), server.listenerCount('request')]).toEqual([1, 1])
})

it('connections are found on a Node whose servers do not list them', async () => {
  const { served, client } = await attached(server => {
    server.on('listening', () => {
      for (const symbol of Object.getOwnPropertySymbols(server))
        if (symbol.description === 'http.server.connections') Reflect.deleteProperty(server, symbol)
    })
  })
  await client(GET('/'))
  expect(served.connections).toBe(1)
})

it('the response under way announces the end, and so does the next on another connection', async () => {
  const { served, responses, client } = await attached()
  const busy = await client(GET('/1'))
  const idle = await client()
  served.announce()
  idle.socket.write(GET('/2'))
  await until('it is there', () => responses.length === 2)
  for (const response of responses) response.end('done')
  for (const { answer } of [busy, idle])
    await until('it says so', () => /^connection: close\r\n[\s\S]*done$/im.test(answer()))
  await served.emptied()
})

it('the last of pipelined responses announces the end, also if it began before', async () => {
  const { served, responses, client } = await attached()
  const { answer, socket } = await client(GET('/1'), GET('/2'), GET('/3'))
  served.announce()
  for (const [i, response] of responses.entries()) {
    response.end(`done ${i + 1};`)
    await until('it is sent', () => answer().includes(`done ${i + 1};`))
  }
  await until('the connection has ended', () => socket.closed)
  expect(answer().match(/^connection: .*$/gim)).toEqual([
    'Connection: keep-alive',
    'Connection: keep-alive',
    'Connection: close',
  ])
})

it('a request that follows pipelined ones announces the end in their place', async () => {
  const { served, responses, client } = await attached()
  const { answer, socket } = await client(GET('/1'), GET('/2'))
  served.announce()
  socket.write(GET('/3'))
  await until('it is there', () => responses.length === 3)
  for (const response of responses) response.end()
  await until('the connection has ended', () => socket.closed)
  expect(
    answer()
      .match(/^connection: .*$/gim)
      ?.at(-1),
  ).toBe('Connection: close')
  expect(answer().match(/^HTTP/gm)).toHaveLength(3)
})

for (const when of ['before', 'after'] as const)
  it(`a connection that was upgraded is found, by a handler that was added ${when} the server was attached`, async () => {
    const sockets: net.Socket[] = []
    const listen = (server: http.Server) =>
      server.on('upgrade', (_request, socket) => sockets.push(socket as net.Socket))
    const { server, served, client } = await attached(when === 'before' ? listen : undefined)
    if (when === 'after') listen(server)
    await client(UPGRADE)
    await until('it is upgraded', () => sockets.length === 1)
    expect([served.connections, served.kinds()]).toEqual([1, { upgraded: 1 }])
    sockets[0]!.destroy()
    await until('it has ended', () => served.connections === 0)
  })

it('an upgrade is refused as without the library once the application has removed its handler', async () => {
  const { server, served, responses, client } = await attached()
  const handler = () => {}
  server.on('upgrade', handler)
  expect(server.listenerCount('upgrade')).toBe(1)
  server.off('upgrade', handler)
  expect(server.listenerCount('upgrade')).toBe(0)
  await client(UPGRADE)
  await until('it is a request', () => responses.length === 1)
  expect(served.kinds()).toEqual({ answering: 1 })
})

it('connections are found where the application puts its own listener before that of Node', async () => {
  const { server, served } = await attached()
  const held: net.Socket[] = []
  const own = connectionListener()
  server.off('connection', own)
  server.on('connection', socket => held.push(socket))
  const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  await until('it is there', () => held.length === 1)
  expect(served.connections).toBe(1)
  held[0]!.destroy()
  await until('it has ended', () => served.connections === 0)
})

it('the response to a request that waits for "Continue" announces the end too', async () => {
  const waiting: http.ServerResponse[] = []
  const { served, client } = await attached(server =>
    server.on('checkContinue', (_request, response) => waiting.push(response)),
  )
  const expecting = 'POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r'
  const { answer, socket } = await client(expecting)
  socket.write('\n')
  await until('it is there', () => waiting.length === 1)
  served.announce()
  waiting[0]!.writeContinue()
  socket.write('x')
  waiting[0]!.end('done')
  await until('it is answered', () => answer().endsWith('done'))
  expect(answer()).toMatch(/^connection: close$/im)
})

it('after a failed upgrade, responses are persistent again and cost no event listener', async () => {
  const { server, served, responses, client } = await attached()
  await client(GET('/1'))
  served.announce()
  served.detach()
  stopListening(server)
  expect([server.listenerCount('connection'), server.listenerCount('request')]).toEqual([1, 1])
  using fd = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
  await served.attach(fd, 8)
  expect(server.listenerCount('request')).toBe(1)
  const { answer } = await client(GET('/2'))
  for (const response of responses) response.end()
  await until('it is answered', () => answer().includes('HTTP/1.1 200'))
  expect(answer()).toMatch(/^connection: keep-alive$/im)
})

it('a connection that was upgraded before the server was attached is found if it is replayed', async () => {
  const sockets: net.Socket[] = []
  const { server, served, client } = await attached(server =>
    server.on('upgrade', (_request, socket) => sockets.push(socket as net.Socket)),
  )
  await client(UPGRADE)
  await until('it is upgraded', () => sockets.length === 1)
  served.release()
  const again = new AttachedServer(
    server,
    {},
    () => {},
    () => {},
  )
  replay(server, 'connection', sockets[0])
  expect(again.kinds()).toEqual({ upgraded: 1 })
  again.cut()
  await again.emptied()
  again.release()
})

it('a connection that waited is closed if the server blocks its address, and shown on the channel of Node if not', async () => {
  const blockList = new net.BlockList()
  blockList.addAddress('127.0.0.2')
  const came: (string | undefined)[] = []
  const shown: unknown[] = []
  const show = (message: unknown) => shown.push(message)
  subscribe('net.server.socket', show)
  onTestFinished(() => void unsubscribe('net.server.socket', show))
  const server = net.createServer(socket => {
    came.push(socket.remoteAddress)
    socket.destroy()
  })
  // As Node since 22.13 has it.
  Object.assign(server, { blockList })
  using fd = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
  const { port } = inspectOne(fd)
  for (const localAddress of ['127.0.0.2', '127.0.0.1']) {
    const client = net.connect({ host: '127.0.0.1', port: port!, localAddress })
    client.on('error', () => {})
    await once(client, 'connect')
    const closed = once(client, 'close')
    giveAccepted(server, accept(fd, 'a client')!)
    await closed
  }
  expect(came).toEqual(['127.0.0.1'])
  expect(shown).toHaveLength(1)
})
