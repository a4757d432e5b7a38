import { once } from 'node:events'
import { Agent } from 'node:http'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { Release } from '../processes/release.js'
import { until } from '../processes/until.js'
import { mainStatus, pidsOf } from '../processes/workers.js'

/** A server that counts the connections that it has. Answers each request after `ms`, but /hang only when {@link release} is called. */
class CountingServer {
  readonly open = new Set<Socket>()
  most = 0
  hanging: Socket[] = []
  url = ''

  static async start(ms: number): Promise<CountingServer> {
    const counting = new CountingServer()
    const all = new Set<Socket>()
    const server = createServer(socket => {
      all.add(socket)
      counting.#add(socket)
      let text = ''
      socket.setEncoding('latin1').on('data', chunk => {
        text += chunk
        const end = text.indexOf('\r\n\r\n')
        if (end < 0) return
        if (text.startsWith('GET /hang')) counting.hanging.push(socket)
        else setTimeout(() => socket.write(ANSWER), ms)
        text = text.slice(end + 4)
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    counting.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    onTestFinished(() => {
      server.close()
      for (const socket of all) socket.destroy()
    })
    return counting
  }

  #add(socket: Socket): void {
    this.open.add(socket)
    const left = () => this.open.delete(socket)
    socket.on('end', left).on('error', left).on('close', left)
    const together = [...this.open]
    // Node may report a new connection before an earlier FIN of another one: two turns later it has reported both.
    setImmediate(() =>
      setImmediate(() => {
        this.most = Math.max(this.most, together.filter(each => this.open.has(each)).length)
      }),
    )
  }

  release(): void {
    for (const socket of this.hanging.splice(0)) socket.write(ANSWER)
  }
}

const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'

/** A release that counts the connections of each process by itself. */
const release = new Release('0.4.0')

const limited = ({ url }: CountingServer, rest: object = {}) => ({
  upstreams: { app: { servers: [url], connections: 4, keepAlive: { idle: '1h' } } },
  routes: [{ host: '*', upstream: 'app' }],
  upgrade: { probation: '0s' },
  ...rest,
})

/** Clients that send one request after the other. `kept`: over one connection each. */
function clients(edge: Edge, count: number, kept: boolean) {
  const statuses = new Map<number, number>()
  const failures: unknown[] = []
  let isOver = false
  const all = Array.from({ length: count }, async () => {
    const agent = kept ? new Agent({ keepAlive: true, maxSockets: 1 }) : undefined
    while (!isOver) {
      try {
        const { status } = await ask(edge.url, agent && { agent }).answer
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
      } catch (error) {
        failures.push(error)
      }
    }
    agent?.destroy()
  })
  const stop = async () => {
    isOver = true
    await Promise.all(all)
  }
  onTestFinished(stop)
  return { statuses, failures, stop, answered: () => [...statuses.values()].reduce((sum, n) => sum + n, 0) }
}

/** A server that answers the request number `n` of all its connections with what `answer` returns; null: it closes the connection instead. */
async function scriptedServer(answer: (n: number) => string | null): Promise<string> {
  let n = 0
  const server = createServer(socket => {
    socket.setEncoding('latin1').on('data', text => {
      for (const _ of String(text).matchAll(/\r\n\r\n/g)) {
        const next = answer(n++)
        if (next === null) socket.destroy()
        else socket.write(next)
        if (next?.includes('Connection: close')) socket.end()
      }
    })
    socket.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const edgeOfOne = (server: string, upstream: object = {}) =>
  Edge.start({
    upstreams: { app: { servers: [server], connections: 1, ...upstream } },
    routes: [{ host: '*', upstream: 'app' }],
  })

async function twoWorkers(server: CountingServer): Promise<Edge> {
  const edge = await Edge.prepare(limited(server, { workers: 2 }))
  await edge.launch()
  await until('both serve', () => edge.lines.filter(({ msg }) => msg === 'the proxy serves').length === 2)
  return edge
}

describe('the limit of connections to a server', () => {
  it('holds for all versions together, and no request within it is refused', async () => {
    const server = await CountingServer.start(5)
    const edge = await Edge.start(limited(server))
    const load = clients(edge, 4, true)
    for (let n = 0; n < 3; n++) {
      const before = load.answered()
      await edge.next()
      await until('the next version answers', () => load.answered() > before + 20)
    }
    await load.stop()
    expect([...load.statuses.keys(), load.failures]).toEqual([200, []])
    expect(server.most).toBe(4)
  })

  it('holds while more clients come than it allows, during upgrades too', async () => {
    const server = await CountingServer.start(5)
    const edge = await Edge.start(limited(server))
    const load = clients(edge, 12, true)
    const served = () => load.statuses.get(200) ?? 0
    for (let n = 0; n < 3; n++) {
      const before = served()
      await edge.next()
      await until('the next version has requests answered', () => served() > before + 20)
    }
    await load.stop()
    expect(server.most).toBe(4)
    expect(load.failures).toEqual([])
  })

  it.runIf(NIGHTLY)(
    'holds for two workers together: one gets the connections that the other does not use',
    async () => {
      const server = await CountingServer.start(5)
      const edge = await twoWorkers(server)
      const load = clients(edge, 4, false)
      await until('they have answered', () => load.answered() > 200)
      await load.stop()
      expect([...load.statuses.keys(), load.failures]).toEqual([200, []])
      expect(server.most).toBe(4)
    },
  )

  it.runIf(NIGHTLY)('does not count the connections of a worker that was killed', async () => {
    const server = await CountingServer.start(0)
    const edge = await twoWorkers(server)
    const hanging = Array.from({ length: 4 }, () => ask(`${edge.url}/hang`))
    const got = Promise.all(
      hanging.map(({ answer }) =>
        answer.then(
          ({ status }) => status,
          () => 0,
        ),
      ),
    )
    await until('they hang', () => server.hanging.length === 4)
    expect((await ask(edge.url).answer).status).toBe(503)
    for (const pid of pidsOf(await mainStatus(edge.sandbox.control))) process.kill(pid!, 'SIGKILL')
    await until('the connections end', () => server.open.size === 0)
    await until('the proxy answers', async () => {
      const { status } = await ask(edge.url).answer.catch(() => ({ status: 0 }))
      return status === 200
    })
    expect(await got).toEqual([0, 0, 0, 0])
    expect(server.most).toBe(4)
  })

  it('counts the connections of a version that drains, also after they have moved', async () => {
    const server = await CountingServer.start(0)
    const edge = await Edge.start(limited(server))
    const hanging = Array.from({ length: 4 }, () => ask(`${edge.url}/hang`))
    await until('they hang', () => server.hanging.length === 4)
    const first = await edge.pid
    await edge.next()
    await edge.ended(first)
    expect((await ask(edge.url).answer).status).toBe(503)
    server.release()
    for (const { answer } of hanging) expect((await answer).status).toBe(200)
    expect((await ask(edge.url).answer).status).toBe(200)
    expect(server.most).toBe(4)
  })

  it('counts the connections of a stopped version until it is killed', async () => {
    const server = await CountingServer.start(0)
    const edge = await Edge.start(limited(server, { drain: { move: 'off' } }))
    const first = await edge.pid
    const hanging = Array.from({ length: 3 }, () => ask(`${edge.url}/hang`).answer.catch(() => null))
    // The first version keeps this one idle.
    expect((await ask(edge.url).answer).status).toBe(200)
    await until('they hang', () => server.hanging.length === 3)
    await edge.next()
    process.kill(first, 'SIGSTOP')
    expect([(await ask(edge.url).answer).status, server.open.size]).toEqual([503, 4])
    process.kill(first, 'SIGKILL')
    await until('a slot is free', async () => (await ask(edge.url).answer).status === 200)
    await Promise.all(hanging)
    expect(server.most).toBe(4)
  })

  it.runIf(NIGHTLY)(
    'counts the connections that came from a release that counted by itself, and gives it none back',
    async () => {
      const server = await CountingServer.start(0)
      const edge = await Edge.start(limited(server), release)
      const hanging = Array.from({ length: 4 }, () => ask(`${edge.url}/hang`).answer)
      await until('they hang', () => server.hanging.length === 4)
      const first = await edge.pid
      await edge.next()
      await edge.ended(first)
      expect((await ask(edge.url).answer).status).toBe(503)
      await edge.next(release)
      server.release()
      for (const answer of hanging) expect((await answer).status).toBe(200)
      expect((await ask(edge.url).answer).status).toBe(200)
    },
  )

  it('lets a request have a free server, however many are full', async () => {
    const servers = await Promise.all(Array.from({ length: 5 }, () => CountingServer.start(0)))
    const edge = await Edge.start({
      upstreams: { app: { servers: servers.map(({ url }) => url), connections: 1, retry: 0 } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const hanging = Array.from({ length: 4 }, () => ask(`${edge.url}/hang`).answer)
    await until('four are full', () => servers.filter(({ hanging }) => hanging.length === 1).length === 4)
    const statuses: number[] = []
    for (let n = 0; n < 5; n++) statuses.push((await ask(edge.url).answer).status)
    expect(statuses).toEqual([200, 200, 200, 200, 200])
    for (const server of servers) server.release()
    for (const answer of hanging) expect((await answer).status).toBe(200)
  })

  it('lets a request have the connection that has just ended', async () => {
    const closing = ANSWER.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')
    const edge = await edgeOfOne(await scriptedServer(() => closing))
    const client = await edge.raw()
    client.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(3))
    const answers = await client.until(text => text.split('\r\n\r\nok').length === 4)
    expect(answers.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 200'])
  })

  it.each([
    ['without a queue', {}],
    ['with a queue', { queue: 10 }],
  ])('lets a request be repeated whose kept connection the server has closed: %s', async (_, rest) => {
    const edge = await edgeOfOne(await scriptedServer(n => (n % 2 === 1 ? null : ANSWER)), rest)
    for (let n = 0; n < 3; n++) expect((await ask(edge.url).answer).status).toBe(200)
  })
})
