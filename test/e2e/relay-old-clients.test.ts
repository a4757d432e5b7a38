import { expect, it, onTestFinished } from 'vitest'
import type { Decision } from '../../src/relay/index.js'
import { send, startWorld, Upstream } from './relay-world.js'

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

async function client(route: Parameters<typeof startWorld>[0]) {
  const world = await startWorld(route)
  onTestFinished(() => world.close())
  return world.client()
}

it('a client of HTTP/1.0 that names no host asks that of the server', async () => {
  const server = await Upstream.start(({ peer }) => void peer.socket.write(OK))
  onTestFinished(() => server.shut())
  const peer = await client(send(server))
  await peer.write('GET / HTTP/1.0\r\n\r\n')
  expect(await peer.all()).toMatch(/ok$/)
  expect(server.got).toContain(`\r\nHost: ${server.authority}\r\n`)
})

it('a client of HTTP/1.0 that wants to go on is told so with an answer that is made here', async () => {
  const answer: Decision = { kind: 'respond', status: 200, body: 'text' }
  const peer = await client(() => answer)
  await peer.write('GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n')
  expect(await peer.sees('text')).toMatch(/\r\nConnection: keep-alive\r\n/)
  expect(peer.ended).toBe(false)
})
