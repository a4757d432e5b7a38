import { once } from 'node:events'
import { statSync } from 'node:fs'
import { get } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { RecentRequests } from '../../src/proxy/metrics/exchange-counts.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { type Config, Edge, upstream } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { present } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { Scraping, samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'
import { behind } from './edge-behind.js'

const UPGRADES = perLane(2, 20)
const REQUESTS = 'fdbroker_proxy_requests_total'

async function measured(config: Config = {}): Promise<{ edge: Edge; url: string }> {
  const port = await freePort()
  const edge = await behind({
    routes: [
      { host: '*', upstream: 'all' },
      { host: '*', path: '/gone', respond: { status: 410 } },
      { host: '*', path: '/busy', respond: { status: 503 } },
    ],
    metrics: `tcp://127.0.0.1:${port}`,
    ...config,
  })
  return { edge, url: `http://127.0.0.1:${port}/metrics` }
}

/** Two workers, each of which has answered the clients. */
async function twoWorkers() {
  const [app, port] = [await upstream(), await freePort()]
  const edge = await Edge.prepare({
    // A silent worker is left alone.
    workers: { count: 2, hungTimeout: 'off' },
    upstreams: { app: { servers: [app.url] } },
    routes: [
      { host: '*', upstream: 'app' },
      { host: '*', path: '/gone', respond: { status: 410 } },
    ],
    metrics: `tcp://127.0.0.1:${port}`,
  })
  await edge.launch()
  await edge.logged('the workers serve')
  const url = `http://127.0.0.1:${port}/metrics`
  const clients = new CountingClients(edge.url, null)
  await until('each worker has answered', () => clients.pids.size === 2, 20_000)
  return { url, clients }
}

function overSocket(socketPath: string): Promise<{ status: number | undefined }> {
  return new Promise((resolve, reject) => {
    const asked = get({ socketPath, path: '/metrics' }, response => {
      resolve({ status: response.statusCode })
      response.resume()
    })
    asked.on('error', reject)
  })
}

describe('the metrics of the proxy', () => {
  it(
    'count every request once, and never fall, through upgrades and a rollback',
    async () => {
      const { edge, url } = await measured()
      const scraping = new Scraping(url, 200)
      const clients = new CountingClients(edge.url)
      const pids = [await edge.pid]
      const upgrade = async () => {
        const before = clients.answers
        pids.push(await edge.next())
        await until('the clients are answered again', () => clients.answers > before + 50, 20_000)
      }
      for (let n = 1; n < UPGRADES; n++) await upgrade()
      edge.write({ upgrade: { probation: '60s' } })
      await upgrade()
      // The times of the version that serves apply to the next one.
      await upgrade()
      const { code, stderr } = await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
      expect({ code, stderr }).toMatchObject({ code: 0 })
      const rolledBack = pids.pop()!
      expect(await edge.pid).toBe(pids.at(-1))
      const before = clients.answers
      await until('the clients are answered again', () => clients.answers > before + 50, 20_000)
      await clients.stop()
      await until(
        'the other versions have ended',
        () => [...pids.slice(0, -1), rolledBack].every(hasEnded),
        20_000,
      )
      const last = await until(
        'the last counts are there',
        async () => {
          const samples = await scraping.once()
          return sumOf(samples, REQUESTS) >= clients.answers ? samples : undefined
        },
        5_000,
        async () =>
          `${clients.answers} answers, but ${sumOf(await scraping.once(), REQUESTS)} in the metrics`,
      )
      expect(await scraping.stop()).toEqual([])
      expect(scraping.scrapes).toBeGreaterThan(UPGRADES)
      expect({
        requests: sumOf(last, REQUESTS),
        ok: sumOf(last, REQUESTS, 'code="2xx"'),
        gone: sumOf(last, REQUESTS, 'code="4xx"'),
        timed: sumOf(last, 'fdbroker_proxy_request_duration_seconds_count'),
        sent: sumOf(last, 'fdbroker_proxy_server_requests_total'),
        released: sumOf(last, 'fdbroker_handoffs_total', 'outcome="released"'),
        reverted: sumOf(last, 'fdbroker_handoffs_total', 'outcome="reverted"'),
        prepared: sumOf(last, 'fdbroker_handoff_phase_seconds_count', 'phase="preparing"'),
        lost: sumOf(last, 'fdbroker_connections_lost_total'),
        generation: sumOf(last, 'fdbroker_generation'),
      }).toEqual({
        requests: clients.answers,
        ok: clients.answers - clients.gone,
        gone: clients.gone,
        timed: clients.answers,
        sent: clients.answers - clients.gone,
        released: UPGRADES,
        reverted: 1,
        prepared: UPGRADES + 1,
        lost: 0,
        generation: UPGRADES + 1,
      })
      const moved = sumOf(last, 'fdbroker_connections_moved_total')
      expect(moved).toBe(sumOf(last, 'fdbroker_connections_arrived_total'))
      expect(moved).toBeGreaterThanOrEqual(UPGRADES)
    },
    UPGRADES * 5_000 + 60_000,
  )

  it.runIf(NIGHTLY)('add up all workers, and any of them answers', async () => {
    const { url, clients } = await twoWorkers()
    const scraping = new Scraping(url, 50, null)
    const before = clients.answers
    await until('the clients are answered', () => clients.answers > before + 200, 20_000)
    await clients.stop()
    const total = await until(
      'the last counts are there',
      async () => {
        const sum = sumOf(await scraping.once(), REQUESTS)
        return sum >= clients.answers ? sum : undefined
      },
      5_000,
    )
    expect(await scraping.stop()).toEqual([])
    expect(total).toBe(clients.answers)
  })

  it.runIf(NIGHTLY)('have the gauges of all workers, without a worker that is silent', async () => {
    const { url, clients } = await twoWorkers()
    await clients.stop()
    const scraping = new Scraping(url, 50, null)
    const descriptors = async () => sumOf(await scraping.once(), 'fdbroker_open_descriptors')
    const silent = Number([...clients.pids][0])
    const ofBoth = await until('both answer', async () => ((await descriptors()) > 40 ? descriptors() : null))
    signalPid(silent, 'SIGSTOP')
    onTestFinished(() => void signalPid(silent, 'SIGCONT'))
    const ofOne = await until(
      'the other one answers alone',
      async () => {
        const found = await descriptors()
        return found < 0.75 * ofBoth ? found : null
      },
      20_000,
      async () => `${await descriptors()} descriptors, ${ofBoth} of both`,
    )
    expect(ofOne).toBeGreaterThan(0)
    signalPid(silent, 'SIGCONT')
    await until('both answer again', async () => (await descriptors()) > 1.25 * ofOne, 20_000)
    expect(await scraping.stop()).toEqual([])
  })

  it('stay where they are when their next address is in use, and so do listeners of that file', async () => {
    const { edge, url } = await measured()
    const other = await freePort()
    const taken = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void taken.close())
    await once(taken, 'listening')
    const { port } = taken.address() as AddressInfo
    const before = edge.config
    const { err } = await edge.reload({
      metrics: `tcp://127.0.0.1:${port}`,
      listeners: [{ name: 'http', address: `tcp://127.0.0.1:${other}` }],
    })
    expect(err).toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE' })
    await ask(edge.url).answer
    expect(sumOf(samplesOf((await ask(url).answer).body), REQUESTS)).toBe(1)
    await expect(ask(`http://127.0.0.1:${other}`).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    edge.config = before
    expect(await edge.reload({})).toMatchObject({ level: 30 })
  })

  it.runIf(NIGHTLY)(
    'can have their address as a flag, which goes on through a reload and in the next version',
    async () => {
      const [app, port] = [await upstream(), await freePort()]
      const edge = await Edge.prepare({
        upstreams: { app: { servers: [app.url] } },
        routes: [{ host: '*', upstream: 'app' }],
        metrics: `tcp://127.0.0.1:${await freePort()}`,
      })
      await edge.serving(await edge.launch(present, '--metrics', `127.0.0.1:${port}`))
      const url = `http://127.0.0.1:${port}/metrics`
      await ask(edge.url).answer
      expect(sumOf(samplesOf((await ask(url).answer).body), REQUESTS)).toBe(1)
      await edge.reload({ accessLog: true })
      expect((await ask(url).answer).status).toBe(200)
      const before = await edge.pid
      expect((await edge.sandbox.run('upgrade', '--control', edge.sandbox.control)).code).toBe(0)
      expect(await edge.pid).not.toBe(before)
      expect(sumOf(samplesOf((await ask(url).answer).body), REQUESTS)).toBe(1)
      const check = (flag: string) =>
        edge.sandbox.run('proxy', '--config', edge.file, '--check', '--metrics', flag)
      expect((await check(join(edge.sandbox.folder, 'm.sock'))).code).toBe(0)
      const { code, stderr } = await check(`127.0.0.1:${edge.port}`)
      expect(code).not.toBe(0)
      expect(stderr).toContain(`it overlaps with tcp://127.0.0.1:${edge.port} of "metrics"`)
    },
  )

  it.runIf(NIGHTLY)('can have a Unix socket with its mode, and move and end with a reload', async () => {
    const { edge, url } = await measured()
    await ask(edge.url).answer
    expect(sumOf(samplesOf((await ask(url).answer).body), REQUESTS)).toBe(1)
    const port = await freePort()
    await edge.reload({ metrics: `tcp://127.0.0.1:${port}` })
    await expect(ask(url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    const { status, body } = await ask(`http://127.0.0.1:${port}/metrics`).answer
    expect([status, sumOf(samplesOf(body), REQUESTS)]).toEqual([200, 1])
    expect((await ask(`http://127.0.0.1:${port}/`).answer).status).toBe(404)
    expect((await ask(`http://127.0.0.1:${port}/metrics`, { method: 'POST' }).answer).status).toBe(405)
    const path = join(edge.sandbox.folder, 'metrics.sock')
    await edge.reload({ metrics: `unix:${path}?mode=0620` })
    expect(statSync(path).mode & 0o777).toBe(0o620)
    expect((await overSocket(path)).status).toBe(200)
    const recent = async () => (await edge.status()).details?.requests as RecentRequests | undefined
    let asked = 0
    const { perSecond, failed, p99Ms } = await until('the status has the last requests', async () => {
      await ask(`${edge.url}/busy`).answer
      asked++
      const last = await recent()
      return last?.failed ? last : null
    })
    expect({ perSecond, p99Ms }).toEqual({ perSecond: expect.any(Number), p99Ms: expect.any(Number) })
    // All of them have failed, in a span of one second or two.
    expect(failed).toBeLessThanOrEqual(asked)
    expect(perSecond).toBeLessThanOrEqual(failed / 0.9)
    await until('none of the last seconds is left', async () => (await recent())?.perSecond === 0, 5_000)
    const counted = 1 + asked
    await edge.reload({ metrics: 'off' })
    expect(await recent()).toBeUndefined()
    await expect(ask(`http://127.0.0.1:${port}/metrics`).answer).rejects.toMatchObject({
      code: 'ECONNREFUSED',
    })
    await ask(edge.url).answer
    await edge.reload({ metrics: `tcp://127.0.0.1:${port}` })
    // Requests while the metrics are off are not counted; earlier ones are.
    expect(sumOf(samplesOf((await ask(`http://127.0.0.1:${port}/metrics`).answer).body), REQUESTS)).toBe(
      counted,
    )
  })
})
