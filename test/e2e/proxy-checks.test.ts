import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { type Config, Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

/** A server with a page for checks. */
class Checked {
  /** Whether the checks pass. */
  well = true
  /** The status of answers to requests. */
  status = 200
  /** Requests, without checks. */
  requests = 0
  /** The Host of each check. */
  readonly hosts: string[] = []
  url = ''

  static async start(): Promise<Checked> {
    const checked = new Checked()
    const server = createServer({ keepAliveTimeout: 60_000 }, ({ url, headers }, response) => {
      if (url === '/health') {
        checked.hosts.push(String(headers.host))
        response.writeHead(checked.well ? 200 : 503).end('as it is\n')
        return
      }
      checked.requests++
      response.writeHead(checked.status).end('well')
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.close()
      server.closeAllConnections()
    })
    checked.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return checked
  }
}

const FAST = { http: '/health', interval: '10ms', timeout: '5s', rise: 2, fall: 2 }
/** One check at the start, and none after it. */
const ONCE = { ...FAST, interval: '1h' }
const ROUTES = [
  { host: '*', upstream: 'app' },
  { host: '*', path: '/gone', respond: { status: 410 } },
]

async function checked(check: object, changes: Config = {}) {
  const [one, two] = [await Checked.start(), await Checked.start()]
  const upstreams = (check: object) => ({ app: { servers: [one.url, two.url], check } })
  const edge = await Edge.prepare({ upstreams: upstreams(check), routes: ROUTES, ...changes })
  return { one, two, edge, upstreams }
}

const out = async (edge: Edge) => (await edge.status()).details?.serversOut as unknown[]

async function requests(edge: Edge, count = 6): Promise<void> {
  for (let n = 0; n < count; n++) expect((await ask(edge.url).answer).status).toBe(200)
}

describe('a server that answers with errors', () => {
  it('gets no requests after so many in a row, by a reload, and in the next version', async () => {
    const { one, two, edge, upstreams } = await checked(ONCE)
    await edge.next()
    one.status = 500
    const statuses = async (count: number) => {
      const all: number[] = []
      for (let n = 0; n < count; n++) all.push((await ask(edge.url).answer).status)
      return all.filter(status => status === 500).length
    }
    expect(await statuses(6)).toBe(3)
    const { app } = upstreams(ONCE)
    await edge.reload({ upstreams: { app: { ...app, health: { errors: 2, coolDown: '1h' } } } })
    expect(await statuses(10)).toBe(2)
    expect(await out(edge)).toMatchObject([{ server: one.url, state: 'down', reason: 'status 500' }])
    await edge.next()
    expect(await statuses(4)).toBe(0)
    expect([one.requests, two.requests]).toEqual([5, 15])
  })
})

describe('a server that is checked', () => {
  it('answers its checks at another port as soon as the file says so', async () => {
    const other = await Checked.start()
    const { one, edge, upstreams } = await checked(FAST)
    await edge.next()
    const port = Number(new URL(other.url).port)
    await edge.reload({ upstreams: upstreams({ ...FAST, port }) })
    await until('the other port is asked', () => other.hosts.includes(one.url.slice(7)))
    other.well = false
    await until('both servers are out', async () => (await out(edge)).length === 2)
    await edge.next()
    expect(await out(edge)).toHaveLength(2)
    other.well = true
    await until('both servers are back', async () => (await out(edge)).length === 0)
  })

  it('gets no requests from when its checks fail until they pass, and no client notices', async () => {
    const port = await freePort()
    const { one, two, edge } = await checked(FAST, { metrics: `tcp://127.0.0.1:${port}` })
    await edge.next()
    const clients = new CountingClients(edge.url)
    await until('both get requests', () => one.requests > 0 && two.requests > 0)
    one.well = false
    const { upstream, server, reason } = await edge.logged(
      'a server fails its check and gets no requests until it passes',
    )
    expect({ upstream, server }).toEqual({ upstream: 'app', server: one.url })
    expect(reason).toBe(`GET /health of ${one.url.slice(7)}: 503 Service Unavailable (as it is)`)
    // Requests on their way to the server when it was taken out.
    await until('no request is on its way', async () => {
      const [before, others] = [one.requests, two.requests]
      await until('the other gets requests', () => two.requests > others + 20)
      return one.requests === before
    })
    const before = one.requests
    await requests(edge)
    expect(one.requests).toBe(before)
    expect(await out(edge)).toEqual([
      { upstream: 'app', server: one.url, state: 'failing', triedInSeconds: null, reason },
    ])
    const { stdout } = await edge.sandbox.run('status', '--control', edge.sandbox.control)
    expect(stdout).toMatch(new RegExp(`^ {2}app +${one.url} +failing +GET /health of .*503`, 'm'))
    const { body } = await ask(`http://127.0.0.1:${port}/metrics`).answer
    expect(sumOf(samplesOf(body), 'fdbroker_proxy_servers_out', 'upstream="app"')).toBe(1)
    for (const result of ['passed', 'failed'])
      expect(
        sumOf(samplesOf(body), 'fdbroker_proxy_server_checks_total', `result="${result}"`),
      ).toBeGreaterThan(1)
    one.well = true
    await edge.logged('a server passes its check and gets requests again')
    await until('both get requests', () => one.requests > before)
    await clients.stop()
    expect(await out(edge)).toEqual([])
  })

  it('stays out in the next version, and after a rollback in the previous one', async () => {
    const { one, edge, upstreams } = await checked(FAST, { upgrade: { probation: '60s' } })
    await edge.next()
    one.well = false
    await until('the server is out', async () => (await out(edge)).length === 1)
    const before = one.requests
    edge.write({ upstreams: upstreams({ ...ONCE, rise: 1000 }) })
    await edge.next()
    await requests(edge)
    expect(await out(edge)).toMatchObject([{ server: one.url, state: 'failing' }])
    const { code } = await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    expect(code).toBe(0)
    await requests(edge)
    expect(one.requests).toBe(before)
    one.well = true
    await until('the previous version checks again', async () => (await out(edge)).length === 0)
    await requests(edge)
    expect(one.requests).toBeGreaterThan(before)
  })

  it('keeps its count of failed checks in the next version', async () => {
    const { one, two, edge } = await checked(ONCE)
    one.well = false
    await edge.next()
    await until('it is checked once', () => one.hosts.length === 1)
    expect(await out(edge)).toEqual([])
    await edge.next()
    await until('it is out', async () => (await out(edge)).length === 1)
    expect(one.hosts.length).toBe(2)
    await requests(edge)
    expect([one.requests, two.requests]).toEqual([0, 6])
  })

  it('gets checks of one version at a time: neither of a standby nor, after a rollback, of the next one', async () => {
    const { one, edge, upstreams } = await checked(
      { ...FAST, host: 'one.test' },
      { upgrade: { probation: '60s' } },
    )
    await edge.next()
    await until('it is checked', () => one.hosts.length > 2)
    edge.write({ upstreams: upstreams({ ...FAST, host: 'two.test' }) })
    await edge.next()
    await until('the next version checks', () => one.hosts.at(-1) === 'two.test')
    const count = one.hosts.length
    await until('it is checked some times', () => one.hosts.length > count + 5)
    await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    await until('the previous version checks', () => one.hosts.at(-1) === 'one.test')
    const again = one.hosts.length
    await until('it is checked some times', () => one.hosts.length > again + 5)
    const changes = one.hosts.filter((host, n) => host !== one.hosts[n - 1])
    expect(changes).toEqual(['one.test', 'two.test', 'one.test'])
  })

  it('gets no requests of any worker when the first one has checked it', async () => {
    const { one, two, edge } = await checked(FAST, { workers: 2 })
    await edge.launch()
    await until('both serve', () => edge.lines.filter(({ msg }) => msg === 'the proxy serves').length === 2)
    one.well = false
    await until('both know', async () => {
      const reports = await Promise.all(
        ['edge', 'edge.1'].map(service =>
          edge.sandbox.run('status', '--json', '--control', edge.sandbox.control, '--service', service),
        ),
      )
      return reports.every(({ stdout }) => stdout.includes('failing'))
    })
    const before = one.requests
    await requests(edge, 12)
    expect([one.requests, two.requests >= 12]).toEqual([before, true])
    expect(edge.lines.filter(({ msg }) => String(msg).startsWith('a server fails its check'))).toHaveLength(1)
  })

  it('gets checks by a reload, and requests again when a reload ends them', async () => {
    const { one, edge, upstreams } = await checked(FAST, {})
    edge.write({ upstreams: upstreams({ http: '/health', interval: '1h' }) })
    await edge.next()
    one.well = false
    await edge.reload({ upstreams: upstreams(FAST) })
    await until('it is out', async () => (await out(edge)).length === 1)
    const before = one.requests
    await edge.reload({ upstreams: { app: { servers: [one.url] } } })
    await requests(edge, 2)
    expect([one.requests, await out(edge)]).toEqual([before + 2, []])
    const { sections = [] } = await edge.status()
    expect(sections.find(({ name }) => name === 'servers.checks')?.entries).toBe(0)
  })
})
