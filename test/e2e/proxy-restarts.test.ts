import { once } from 'node:events'
import { Agent, createServer, type Server } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { GivenTime } from '../processes/given-time.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const SERVERS = 10
const CLIENTS = 6
/** Answers of one server that show that it has its share. */
const SHARE = 10

/** A server that can be killed and started again; it answers with its number. */
class Restarted {
  /** Requests, without checks. */
  requests = 0
  readonly port: number
  readonly #name: string
  #server: Server | null = null

  constructor(port: number, name: string) {
    this.port = port
    this.#name = name
  }

  async start(): Promise<void> {
    const server = createServer({ keepAliveTimeout: 60_000 }, ({ url }, response) => {
      if (url !== '/health') this.requests++
      response.end(this.#name)
    })
    server.listen(this.port, '127.0.0.1')
    await once(server, 'listening')
    this.#server = server
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  stop(): void {
    this.#server?.close()
    this.#server?.closeAllConnections()
    this.#server = null
  }
}

/** Requests of a few clients, without a pause, and what became of them. */
function load(url: string, method = 'GET') {
  const answers: string[] = []
  const failed: string[] = []
  let stopped = false
  const client = async (): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!stopped) {
      const { status, body } = await ask(url, { agent, method }).answer.catch(error => ({
        status: 0,
        body: `${error}`,
      }))
      if (status === 200) answers.push(body)
      else failed.push(`${status} ${body}`)
    }
    agent.destroy()
  }
  const clients = Array.from({ length: CLIENTS }, client)
  const stop = async (): Promise<void> => {
    stopped = true
    await Promise.all(clients)
  }
  onTestFinished(stop)
  return { answers, failed, stop }
}

/** Servers that run until the test ends. */
async function started(count: number): Promise<Restarted[]> {
  const ports: number[] = []
  while (ports.length < count) ports.push(await freePort())
  const servers = ports.map((port, index) => new Restarted(port, `s${index}`))
  onTestFinished(() => {
    for (const server of servers) server.stop()
  })
  for (const server of servers) await server.start()
  return servers
}

describe('ten servers that are killed and started again one after the other under load', () => {
  const [rounds, coolDown] = perLane([1, 200], [3, 1_000]) as [number, number]

  it.runIf(NIGHTLY)(
    'each have their share again within their coolDown and 1 s, and cost one request at most',
    async () => {
      const servers = await started(SERVERS)
      const edge = await Edge.start({
        upstreams: {
          app: {
            servers: servers.map(({ url }) => url),
            health: { coolDown: `${coolDown}ms` },
          },
        },
        routes: [{ host: '*', upstream: 'app' }],
      })
      const { answers, failed, stop } = load(edge.url)
      const outs = (url: string) =>
        edge.lines.filter(
          ({ msg, server }) =>
            msg === 'a server failed too often and gets no requests for a while' && server === url,
        ).length
      for (let round = 0; round < rounds; round++) {
        for (const [index, server] of servers.entries()) {
          await until('all have answered', () => new Set(answers.slice(-10 * SERVERS)).size === SERVERS)
          const failedBefore = failed.length
          const outBefore = outs(server.url)
          server.stop()
          await until('the server is passed over', () => outs(server.url) > outBefore)
          await server.start()
          const time = new GivenTime()
          const from = answers.length
          const own = () => answers.slice(from).filter(answer => answer === `s${index}`).length
          await until('the server is used', () => own() > 0, coolDown + 1_000)
          expect(time.now()).toBeLessThanOrEqual(coolDown + 1_000)
          const used = answers.length
          await until('the server has its share', () => own() >= SHARE)
          // A tenth of all, but for a turn that other requests were in the middle of.
          expect(answers.length - used).toBeLessThanOrEqual(2 * SHARE * SERVERS)
          expect(failed.slice(failedBefore).length, `${failed}`).toBeLessThanOrEqual(1)
        }
      }
      await stop()
    },
    120_000,
  )
})

describe('three servers with checks that are killed in turn under load', () => {
  it.runIf(NIGHTLY).each([
    ['', false],
    [', with an upgrade in each of these events', true],
  ])(
    'cost one request each at most%s',
    async (_, upgraded) => {
      const servers = await started(3)
      const check = { http: '/health', interval: '50ms', timeout: '5s', rise: 2, fall: 2 }
      const edge = await Edge.start({
        upstreams: { app: { servers: servers.map(({ url }) => url), check } },
        routes: [{ host: '*', upstream: 'app' }],
        upgrade: { probation: '0s' },
      })
      const { answers, failed, stop } = load(edge.url)
      for (const server of servers) {
        const before = server.requests
        await until('the server has requests', () => server.requests > before)
        const failedBefore = failed.length
        const from = edge.lines.length
        const said = (begin: string) =>
          edge.lines
            .slice(from)
            .some(({ msg = '', server: url }) => msg.startsWith(begin) && url === server.url)
        server.stop()
        if (upgraded) await edge.next()
        await until('its checks fail', () => said('a server fails its check'))
        const { length } = answers
        await until('the others answer', () => answers.length > length + 10 * SHARE)
        await server.start()
        await until('it has requests again', () => server.requests > before + SHARE, 20_000)
        expect(failed.slice(failedBefore).length, `${failed}`).toBeLessThanOrEqual(1)
      }
      await stop()
    },
    120_000,
  )
})

describe('ten servers that restart in turn under load, each drained before', () => {
  it.runIf(NIGHTLY)(
    'cost no request',
    async () => {
      const servers = await started(SERVERS)
      const edge = await Edge.start({
        upstreams: { app: { servers: servers.map(({ url }) => url) } },
        routes: [{ host: '*', upstream: 'app' }],
      })
      // The proxy sends no such request to another server when one breaks off.
      const { answers, failed, stop } = load(edge.url, 'POST')
      const order = async (command: string, { url }: Restarted) =>
        expect(
          await edge.sandbox.run('servers', command, '--control', edge.sandbox.control, 'app', url),
        ).toMatchObject({ code: 0 })
      for (const server of servers) {
        await until('the server has requests', () => server.requests > 0)
        await order('drain', server)
        await until('the server has no request', async () => {
          const [before, { length }] = [server.requests, answers]
          await until('the others answer', () => answers.length > length + 2 * CLIENTS)
          return server.requests === before
        })
        server.stop()
        const { length } = answers
        await until('the others answer', () => answers.length > length + 2 * CLIENTS)
        await server.start()
        const before = server.requests
        await order('undrain', server)
        await until('it has requests again', () => server.requests > before + SHARE)
      }
      await stop()
      expect(failed).toEqual([])
    },
    120_000,
  )
})
