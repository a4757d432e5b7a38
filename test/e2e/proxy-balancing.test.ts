import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { type Config, Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** A server that answers with its name; requests for `/held` stay without an answer. */
async function named(name: string): Promise<{ url: string; held: number }> {
  const made = { url: '', held: 0 }
  const server = createServer({ keepAliveTimeout: 60_000 }, ({ url }, response) => {
    if (url === '/held') made.held++
    else response.end(name)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  made.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return made
}

async function scene(balance: string, changes: Config = {}) {
  const servers = [await named('a'), await named('b'), await named('c')]
  const app = { servers: servers.map(({ url }) => url), balance }
  const edge = await Edge.prepare({
    upstreams: { app },
    routes: [{ host: '*', upstream: 'app' }],
    ...changes,
  })
  const answer = async (headers: Record<string, string> = {}) =>
    (await ask(edge.url, { headers }).answer).body
  return { servers, edge, answer }
}

const USERS = Array.from({ length: 12 }, (_, n) => `user ${n}`)

describe('requests of a proxy that hashes', () => {
  it.each([
    ['header:X-User', (user: string) => ({ 'x-user': user })],
    ['cookie:sid', (user: string) => ({ cookie: `other=1; sid=${user.replace(' ', '-')}` })],
  ] as const)('by %s go to the same server, in each version', async (source, headers) => {
    const { edge, answer } = await scene(`hash:${source}`)
    await edge.next()
    const before = new Map<string, string>()
    for (const user of USERS) before.set(user, await answer(headers(user)))
    expect(new Set(before.values()).size).toBeGreaterThan(1)
    await edge.next()
    for (const user of USERS) expect([user, await answer(headers(user))]).toEqual([user, before.get(user)])
    const others = new Set([await answer(), await answer(), await answer()])
    expect(others.size).toBe(3)
  })

  it('by the address go to one server, also as whole connections', async () => {
    const { edge, answer } = await scene('hash:address')
    await edge.next()
    const first = await answer()
    for (let n = 0; n < 5; n++) expect(await answer()).toBe(first)

    const taken: number[] = []
    const urls: string[] = []
    for (let n = 0; n < 3; n++) {
      const server = createTcpServer(socket => {
        taken.push(n)
        socket.on('error', () => {}).end()
      })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      onTestFinished(() => void server.close())
      urls.push(`tcp://127.0.0.1:${(server.address() as AddressInfo).port}`)
    }
    const port = await freePort()
    await edge.reload({
      listeners: [
        ...(edge.config.listeners as object[]),
        { name: 'tcp', address: `tcp://127.0.0.1:${port}`, forward: 'db' },
      ],
      upstreams: { ...(edge.config.upstreams as object), db: { servers: urls, balance: 'hash:address' } },
    })
    for (let n = 0; n < 5; n++) await (await edge.raw(port)).toTheEnd()
    expect([taken.length, new Set(taken).size]).toEqual([5, 1])
  })
})

describe('requests of a proxy that counts connections', () => {
  it('go to a server without a request in flight', async () => {
    const { servers, edge, answer } = await scene('least-connections')
    await edge.next()
    const held = () => servers.filter(server => server.held > 0)
    const asked = [ask(`${edge.url}/held`), ask(`${edge.url}/held`)]
    for (const { answer } of asked) answer.catch(() => {})
    await until('two servers have a request', () => held().length === 2)
    const free = ['a', 'b', 'c'][servers.findIndex(server => server.held === 0)]
    for (let n = 0; n < 6; n++) expect(await answer()).toBe(free)
  })
})
