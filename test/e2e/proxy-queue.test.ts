import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { type Config, Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

/** A server whose answers to /held/N the test writes; it answers everything else after some milliseconds. */
class HoldingServer {
  readonly held = new Map<string, ServerResponse>()
  /** The most connections that it had at a time. */
  most = 0
  url = ''
  #server: Server | undefined

  static async start(): Promise<HoldingServer> {
    const holding = new HoldingServer()
    const open = new Set<Socket>()
    const server = createServer({ keepAliveTimeout: 60_000 }, ({ url = '' }, response) => {
      if (url.startsWith('/held')) holding.held.set(url, response)
      else setTimeout(() => response.end('ok'), 5)
    })
    holding.#server = server
    server.on('connection', socket => {
      open.add(socket)
      const left = () => open.delete(socket)
      socket.on('end', left).on('error', left).on('close', left)
      const together = [...open]
      // Node may report a new connection before an earlier FIN of another one: two turns later it has reported both.
      setImmediate(() =>
        setImmediate(() => {
          holding.most = Math.max(holding.most, together.filter(each => open.has(each)).length)
        }),
      )
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.close()
      server.closeAllConnections()
    })
    holding.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return holding
  }

  stop(): void {
    this.#server!.close()
    this.#server!.closeAllConnections()
  }

  answer(path: string): void {
    this.held.get(path)!.end(path)
    this.held.delete(path)
  }
}

async function queueing(servers: HoldingServer[], upstream: object, rest: Config = {}): Promise<Edge> {
  return await Edge.start({
    upstreams: { app: { servers: servers.map(({ url }) => url), connections: 1, ...upstream } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    ...rest,
  })
}

const waitingIn = async (edge: Edge) => (await edge.status()).listeners[0]?.kinds?.waiting ?? 0

/** A request for which the server waits. */
async function hold(edge: Edge, server: HoldingServer, path: string) {
  const asking = ask(edge.url + path)
  await until(`the server has ${path}`, () => server.held.has(path))
  return asking
}

/** Two servers with a request each, and one that waits. */
async function twoBusy() {
  const servers = [await HoldingServer.start(), await HoldingServer.start()]
  const edge = await queueing(servers, { queue: 10 })
  const both = ['/held/1', '/held/2'].map(path => ask(edge.url + path))
  await until('both are busy', () => servers.every(({ held }) => held.size === 1))
  const waiting = ask(`${edge.url}/held/3`)
  await until('one waits', async () => (await waitingIn(edge)) === 3)
  return { edge, servers, both, waiting }
}

describe('a request for which no server is free', () => {
  it('waits for its turn, and gets 503 if too many wait', async () => {
    const server = await HoldingServer.start()
    const port = await freePort()
    const edge = await queueing([server], { queue: 2 }, { metrics: `tcp://127.0.0.1:${port}` })
    const first = await hold(edge, server, '/held/1')
    const second = ask(`${edge.url}/held/2`)
    await until('two wait', async () => (await waitingIn(edge)) === 2)
    const third = ask(`${edge.url}/held/3`)
    await until('three wait', async () => (await waitingIn(edge)) === 3)
    const refused = await ask(edge.url).answer
    expect([refused.status, refused.body]).toEqual([503, 'queue-full\n'])
    expect(refused.headers['retry-after']).toBe('1')
    const numbers = async () => {
      const samples = samplesOf((await ask(`http://127.0.0.1:${port}/metrics`).answer).body)
      const of = (result: string) =>
        sumOf(samples, 'fdbroker_proxy_queued_requests_total', `result="${result}"`)
      return [sumOf(samples, 'fdbroker_proxy_waiting_requests'), of('served'), of('full')]
    }
    await until('they are counted', async () => `${await numbers()}` === '2,0,1')
    server.answer('/held/1')
    expect((await first.answer).body).toBe('/held/1')
    await until('the second has the connection', () => server.held.has('/held/2'))
    expect([...server.held.keys()]).toEqual(['/held/2'])
    server.answer('/held/2')
    await until('the third has the connection', () => server.held.has('/held/3'))
    server.answer('/held/3')
    expect([(await second.answer).status, (await third.answer).status]).toEqual([200, 200])
    expect(server.most).toBe(1)
    await until('they are counted', async () => `${await numbers()}` === '0,2,1')
  })

  it('gets 503 after its time, and leaves its place when its client goes', async () => {
    const server = await HoldingServer.start()
    const edge = await queueing([server], { queue: { requests: 1, timeout: '500ms' } })
    const first = await hold(edge, server, '/held/1')
    const late = await ask(edge.url).answer
    expect([late.status, late.body, late.headers['retry-after']]).toEqual([503, 'queue-timeout\n', '1'])
    await edge.reload({
      upstreams: { app: { servers: [server.url], connections: 1, queue: { requests: 1, timeout: '1m' } } },
    })
    const gone = (await edge.raw()).send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('it waits', async () => (await waitingIn(edge)) === 2)
    gone.socket.destroy()
    await until('it has gone', async () => (await waitingIn(edge)) === 1)
    const next = ask(edge.url)
    await until('the next one waits', async () => (await waitingIn(edge)) === 2)
    server.answer('/held/1')
    expect([(await first.answer).status, (await next.answer).status]).toEqual([200, 200])
  })

  it('gets 503 after its time in a queue that a reload has removed', async () => {
    const server = await HoldingServer.start()
    const port = await freePort()
    const metrics = { metrics: `tcp://127.0.0.1:${port}` }
    const edge = await queueing([server], { queue: { requests: 1, timeout: '1s' } }, metrics)
    const first = await hold(edge, server, '/held/1')
    const waiting = ask(edge.url)
    await until('it waits', async () => (await waitingIn(edge)) === 2)
    await edge.reload({ upstreams: { app: { servers: [server.url], connections: 1 } }, ...metrics })
    expect((await waiting.answer).body).toBe('queue-timeout\n')
    const samples = samplesOf((await ask(`http://127.0.0.1:${port}/metrics`).answer).body)
    expect(sumOf(samples, 'fdbroker_proxy_queued_requests_total', 'result="late"')).toBe(1)
    server.answer('/held/1')
    expect((await first.answer).status).toBe(200)
  })

  it('gets the first server that is free', async () => {
    const { servers, both, waiting } = await twoBusy()
    const [path = ''] = [...servers[1]!.held.keys()]
    servers[1]!.answer(path)
    await until('the other server has it', () => servers[1]!.held.has('/held/3'))
    servers[1]!.answer('/held/3')
    expect((await waiting.answer).status).toBe(200)
    for (const server of servers) for (const path of [...server.held.keys()]) server.answer(path)
    for (const asking of both) expect((await asking.answer).status).toBe(200)
  })

  it('waits on in the next version, also beyond its limit, for the rest of its time', async () => {
    const server = await HoldingServer.start()
    const edge = await queueing([server], { queue: { requests: 3, timeout: '1m' } })
    const first = await hold(edge, server, '/held/1')
    const waiting = [2, 3, 4].map(n => ask(`${edge.url}/?${n}`))
    await until('they wait', async () => (await waitingIn(edge)) === 4)
    edge.write({
      upstreams: { app: { servers: [server.url], connections: 1, queue: { requests: 1, timeout: '1m' } } },
    })
    const old = await edge.pid
    const pid = await edge.next()
    await until('they wait in the next version', async () => (await waitingIn(edge)) === 4)
    server.answer('/held/1')
    expect((await first.answer).status).toBe(200)
    for (const { answer } of waiting) expect((await answer).status).toBe(200)
    expect([pid === old, server.most]).toEqual([false, 1])
    // The wait of a moved request is not begun again.
    edge.write({
      upstreams: { app: { servers: [server.url], connections: 1, queue: { requests: 9, timeout: '3s' } } },
    })
    await edge.next()
    const again = await hold(edge, server, '/held/5')
    const begun = performance.now()
    const late = ask(edge.url)
    await until('one waits', async () => (await waitingIn(edge)) === 2)
    edge.write({
      upstreams: { app: { servers: [server.url], connections: 1, queue: { requests: 9, timeout: '10m' } } },
    })
    await edge.next()
    expect((await late.answer).body).toBe('queue-timeout\n')
    expect(performance.now() - begun).toBeGreaterThan(2_500)
    server.answer('/held/5')
    expect((await again.answer).status).toBe(200)
  })

  it('waits for the others if the server that becomes free has died', async () => {
    const [dies, lives] = [await HoldingServer.start(), await HoldingServer.start()] as const
    const edge = await queueing([dies, lives], { queue: 20 })
    const first = ['/held/1', '/held/2'].map(path => ask(edge.url + path).answer)
    await until('both are busy', () => dies.held.size + lives.held.size === 2)
    const waiting = Array.from({ length: 6 }, (_, n) => ask(`${edge.url}/?${n}`).answer)
    await until('the others wait', async () => (await waitingIn(edge)) === 8)
    dies.stop()
    let answers: Awaited<(typeof waiting)[number]>[] | undefined
    void Promise.all([...waiting, ...first]).then(all => (answers = all.slice(0, waiting.length)))
    // The request of the server that has died comes to the other one too.
    await until('all are answered', () => {
      for (const path of [...lives.held.keys()]) lives.answer(path)
      return answers
    })
    expect(answers!.map(({ status, body }) => [status, body])).toEqual(waiting.map(() => [200, 'ok']))
  })

  it('waits for those that are up, beside one that has died', async () => {
    const [dead, lives] = [await HoldingServer.start(), await HoldingServer.start()] as const
    dead.stop()
    const edge = await queueing([dead, lives], { queue: 20 })
    for (let n = 0; n < 4; n++) expect((await ask(edge.url).answer).status).toBe(200)
    await edge.logged('a server failed too often and gets no requests for a while')
    const first = await hold(edge, lives, '/held/1')
    const statuses: number[] = []
    const others = Array.from({ length: 6 }, async (_, n) =>
      statuses.push((await ask(`${edge.url}/?${n}`).answer).status),
    )
    await until('they wait, or are refused', async () => (await waitingIn(edge)) + statuses.length === 7)
    lives.answer('/held/1')
    await Promise.all([first.answer, ...others])
    expect(statuses).toEqual(others.map(() => 200))
  })

  it('goes to no server that an operator has drained meanwhile', async () => {
    const { edge, servers, both, waiting } = await twoBusy()
    const [drained, other] = servers as [HoldingServer, HoldingServer]
    const control = ['--control', edge.sandbox.control]
    expect(await edge.sandbox.run('servers', 'drain', ...control, 'app', drained.url)).toMatchObject({
      code: 0,
    })
    for (const path of [...drained.held.keys()]) drained.answer(path)
    await until('the answer has come', async () => (await waitingIn(edge)) === 2)
    for (const path of [...other.held.keys()]) other.answer(path)
    await until('a server has it', () => servers.some(({ held }) => held.has('/held/3')))
    expect([...drained.held.keys()]).toEqual([])
    other.answer('/held/3')
    for (const { answer } of [...both, waiting]) expect((await answer).status).toBe(200)
  })

  it('gets a server that an operator brings back meanwhile', async () => {
    const { edge, servers, both, waiting } = await twoBusy()
    const [away, other] = servers as [HoldingServer, HoldingServer]
    const control = ['--control', edge.sandbox.control]
    const change = async (kind: string) =>
      expect(await edge.sandbox.run('servers', kind, ...control, 'app', away.url)).toMatchObject({ code: 0 })
    await change('drain')
    for (const path of [...away.held.keys()]) away.answer(path)
    await until('the answer has come', async () => (await waitingIn(edge)) === 2)
    await change('undrain')
    await until('it has the request', () => away.held.has('/held/3'))
    away.answer('/held/3')
    for (const path of [...other.held.keys()]) other.answer(path)
    for (const { answer } of [...both, waiting]) expect((await answer).status).toBe(200)
  })

  it.each([
    ['raised', { connections: 3, queue: 9 }],
    ['removed', {}],
  ])('gets its server when its limit is %s', async (_, limits) => {
    const server = await HoldingServer.start()
    const edge = await queueing([server], { queue: 9 })
    const first = await hold(edge, server, '/held/1')
    const second = ask(`${edge.url}/held/2`)
    await until('it waits', async () => (await waitingIn(edge)) === 2)
    await edge.reload({ upstreams: { app: { servers: [server.url], ...limits } } })
    const third = ask(`${edge.url}/held/3`)
    await until('the server has all', () => server.held.size === 3)
    for (const path of [...server.held.keys()]) server.answer(path)
    for (const { answer } of [first, second, third]) expect((await answer).status).toBe(200)
  })

  it('gets a new connection at once if its kept one closes while others wait', async () => {
    const server = await HoldingServer.start()
    const edge = await queueing([server], { queue: 10 })
    const first = await hold(edge, server, '/held/1')
    const [second, third] = [ask(`${edge.url}/held/2`), ask(`${edge.url}/held/3`)]
    await until('two wait', async () => (await waitingIn(edge)) === 3)
    server.answer('/held/1')
    expect((await first.answer).status).toBe(200)
    await until('one has the connection', () => server.held.size === 1)
    const [path = ''] = [...server.held.keys()]
    server.held.get(path)!.socket!.destroy()
    server.held.clear()
    await until('it is repeated', () => server.held.has(path))
    server.answer(path)
    const [other] = ['/held/2', '/held/3'].filter(each => each !== path)
    await until('the other one has the connection', () => server.held.has(other!))
    server.answer(other!)
    expect([(await second.answer).status, (await third.answer).status]).toEqual([200, 200])
  })

  it('gets 200 like all others through three upgrades under load', async () => {
    const servers = [await HoldingServer.start(), await HoldingServer.start()]
    const edge = await queueing(servers, { connections: 2, queue: { requests: 100, timeout: '1m' } })
    let isOver = false
    const statuses = new Map<number, number>()
    const clients = Array.from({ length: 16 }, async () => {
      while (!isOver) {
        const { status } = await ask(edge.url).answer
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      }
    })
    onTestFinished(() => {
      isOver = true
    })
    for (let n = 0; n < 3; n++) {
      const before = statuses.get(200) ?? 0
      await edge.next()
      await until('the next version answers', () => (statuses.get(200) ?? 0) > before + 50)
    }
    isOver = true
    await Promise.all(clients)
    expect([...statuses.keys()]).toEqual([200])
    expect(servers.map(({ most }) => most)).toEqual([2, 2])
  })
})
