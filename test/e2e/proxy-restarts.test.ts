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
  readonly port: number
  readonly #name: string
  #server: Server | null = null

  constructor(port: number, name: string) {
    this.port = port
    this.#name = name
  }

  async start(): Promise<void> {
    const server = createServer({ keepAliveTimeout: 60_000 }, (_request, response) =>
      response.end(this.#name),
    )
    server.listen(this.port, '127.0.0.1')
    await once(server, 'listening')
    this.#server = server
  }

  stop(): void {
    this.#server?.close()
    this.#server?.closeAllConnections()
    this.#server = null
  }
}

/** Requests of a few clients, without a pause, and what became of them. */
function load(url: string) {
  const answers: string[] = []
  const failed: string[] = []
  let stopped = false
  const client = async (): Promise<void> => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!stopped) {
      const { status, body } = await ask(url, { agent }).answer.catch(error => ({
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

describe('ten servers that are killed and started again one after the other under load', () => {
  const [rounds, coolDown] = perLane([1, 200], [3, 1_000]) as [number, number]

  it.runIf(NIGHTLY)(
    'each have their share again within their coolDown and 1 s, and cost one request at most',
    async () => {
      const ports: number[] = []
      while (ports.length < SERVERS) ports.push(await freePort())
      const servers = ports.map((port, index) => new Restarted(port, `s${index}`))
      onTestFinished(() => {
        for (const server of servers) server.stop()
      })
      for (const server of servers) await server.start()
      const edge = await Edge.start({
        upstreams: {
          app: {
            servers: ports.map(port => `http://127.0.0.1:${port}`),
            health: { coolDown: `${coolDown}ms` },
          },
        },
        routes: [{ host: '*', upstream: 'app' }],
      })
      const { answers, failed, stop } = load(edge.url)
      const outs = (port: number) =>
        edge.lines.filter(
          ({ msg, server }) =>
            msg === 'a server failed too often and gets no requests for a while' &&
            server === `http://127.0.0.1:${port}`,
        ).length
      for (let round = 0; round < rounds; round++) {
        for (const [index, server] of servers.entries()) {
          await until('all have answered', () => new Set(answers.slice(-10 * SERVERS)).size === SERVERS)
          const failedBefore = failed.length
          const outBefore = outs(server.port)
          server.stop()
          await until('the server is passed over', () => outs(server.port) > outBefore)
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
