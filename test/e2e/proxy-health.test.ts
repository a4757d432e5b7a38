import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'

const PACE = { interval: '20ms', timeout: '2s', within: '20s', passes: 2 }
const TIMES = { probation: '60s', heartbeat: '50ms', silence: '1500ms', ready: '60s', timeout: '60s' }

/** A server whose answer to everything can be changed. */
async function judge() {
  const judge = {
    answer: ((_request, response) => response.end('well\n')) as RequestListener,
    asked: [] as string[],
    url: '',
  }
  const server = createServer((request, response) => {
    judge.asked.push(`${request.headers.host}${request.url}`)
    judge.answer(request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  judge.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return judge
}

type Judge = Awaited<ReturnType<typeof judge>>

/** A proxy whose first generation serves; versions prove themselves as `health` says. */
async function start(judge: Judge, health: object, config: object = {}): Promise<Edge> {
  const app = await upstream()
  return await Edge.start({
    upstreams: { app: { servers: [app.url] }, judge: { servers: [judge.url] } },
    routes: [
      { host: '*', upstream: 'app' },
      { host: '*', path: '/health', upstream: 'judge' },
    ],
    upgrade: { ...TIMES, health: { ...PACE, ...health } },
    ...config,
  })
}

/** Another version is launched, and is refused before the commit; the one that serves has heard why. */
async function refused(edge: Edge) {
  const before = await edge.pid
  const pid = await edge.launch()
  await edge.ended(pid, 30_000)
  const status = await until('the handoff is over', async () => {
    const now = await edge.status()
    return now.phase === 'idle' && now.lastFailure !== null ? now : null
  })
  expect([status.pid, status.role, status.handoffs.at(-1)?.outcome]).toEqual([before, 'serving', 'failed'])
  return status.lastFailure!
}

const unhealthy = (phase: string, message: RegExp) => ({
  code: 'ERR_FDB_UNHEALTHY',
  phase,
  at: expect.any(Number),
  message: expect.stringMatching(message),
})

describe('a version of the proxy that is to prove itself', () => {
  it.runIf(NIGHTLY)(
    'and answers only 502 is refused before the commit; the one before serves on, and nothing fails',
    async () => {
      const well = await judge()
      const edge = await start(well, { http: '/health', timeout: '1s', within: '1s' })
      // The first was not asked: no other could serve instead.
      expect(well.asked).toEqual([])
      const load = await loadOn(edge.url, { rate: 200, writes: 0 })
      const { upstreams } = edge.config as { upstreams: object }
      edge.write({
        upstreams: { ...upstreams, judge: { servers: [`http://127.0.0.1:${await freePort()}`] } },
      })
      expect(await refused(edge)).toEqual(
        unhealthy(
          'offering',
          /upgrade\.health: \d+ checks within 1000 ms, but not 2 successful in a row: GET \/health: 502 Bad Gateway \(connect-failed\)/,
        ),
      )
      await load.stop()
      // By the shared listener all was well, all the time.
      expect((await ask(`${edge.url}/health`).answer).status).toBe(200)
    },
  )

  it('and hangs is refused; one that is well takes over, is asked in probation, and is committed', async () => {
    const slow = await judge()
    const asked = { http: '/health', host: 'app.example.com' }
    // How long the one before stands by is its own affair.
    const times = { ...TIMES, probation: '2s' }
    const impatient = { ...PACE, ...asked, timeout: '300ms', within: '1s' }
    const edge = await start(slow, {}, { upgrade: { ...times, health: impatient } })
    const { answer } = slow
    slow.answer = () => {}
    expect(await refused(edge)).toEqual(
      unhealthy('offering', /GET \/health of app\.example\.com: no answer within 300 ms/),
    )
    slow.answer = answer
    slow.asked.splice(0)
    edge.write({ upgrade: { ...times, health: { ...PACE, ...asked, timeout: '1500ms' } } })
    const first = await edge.pid
    const next = await edge.next()
    await until('it is asked in probation', () => slow.asked.length > PACE.passes)
    await edge.ended(first, 30_000)
    expect(await edge.status()).toMatchObject({ pid: next, generation: 2, lastFailure: null })
    expect(new Set(slow.asked)).toEqual(new Set(['app.example.com/health']))
  })

  it.runIf(NIGHTLY)(
    'and becomes sick in probation is rolled back, with what it was asked and what it answered, and nothing fails',
    async () => {
      const sick = await judge()
      const edge = await start(sick, { http: '/health' })
      const first = await edge.pid
      const load = await loadOn(edge.url, { rate: 200, writes: 0 })
      const next = await edge.next()
      expect(await edge.pid).toBe(next)
      sick.answer = (_request, response) => response.writeHead(503).end('no database\n')
      const { lastFailure, handoffs } = await until('the one before serves again', async () => {
        const status = await edge.status()
        return status.pid === first && status.phase === 'idle' ? status : null
      })
      expect(lastFailure).toEqual(
        unhealthy(
          'probation',
          /not healthy for \d+ ms .*: GET \/health: 503 Service Unavailable \(no database\)/,
        ),
      )
      expect(handoffs.at(-1)?.outcome).toBe('reverted')
      await edge.logged(
        'upgrade.health fails: if it keeps failing, the previous version takes over again',
        line => line.pid === next && /503/.test(line.why),
      )
      await edge.logged('the handoff failed; the incumbent continues to serve', line =>
        /503/.test(line.err.message),
      )
      await edge.ended(next, 40_000)
      await load.stop()
    },
  )

  it.runIf(NIGHTLY)('answers checks although it has as many clients as it may have', async () => {
    const well = await judge()
    const times = { ...TIMES, silence: '500ms', probation: '4s' }
    const edge = await start(
      well,
      {},
      {
        limits: { connections: 2 },
        upgrade: { ...times, health: { ...PACE, http: '/health' } },
      },
    )
    const { hostname, port } = new URL(edge.url)
    const clients = [0, 1].map(() => connect(Number(port), hostname))
    onTestFinished(() => {
      for (const client of clients) client.destroy()
    })
    for (const client of clients) {
      client.write('GET /health HTTP/1.1\r\nHost: a\r\n\r\n')
      await once(client, 'data')
    }
    const first = await edge.pid
    const next = await edge.next()
    await edge.ended(first, 30_000)
    expect(await edge.status()).toMatchObject({ pid: next, generation: 2, lastFailure: null })
    // The server had the clients, and so no place for others: the third is its own last question, as long as that is under way.
    await until('it has its clients alone', async () => (await edge.status()).connections === 2)
  })

  it('answers checks over TLS where its listener speaks that', async () => {
    const well = await judge()
    const edge = await Edge.prepare({})
    const certificate = edge.issue('app', ['app.example.com'])
    edge.write({
      ...edge.secured([certificate]),
      upstreams: { judge: { servers: [well.url] } },
      routes: [{ host: 'app.example.com', upstream: 'judge' }],
      upgrade: { ...TIMES, health: { ...PACE, http: '/health', host: 'app.example.com' } },
    })
    await edge.next()
    const next = await edge.next()
    expect(await edge.pid).toBe(next)
    expect(new Set(well.asked)).toEqual(new Set(['app.example.com/health']))
  })
})

describe('a command', () => {
  const asks = (path: string) =>
    `"${process.execPath}" -e 'require("http").get({socketPath: process.env.FD_BROKER_SOCKET, path: "${path}"}, answer => { console.log("status", answer.statusCode, process.env.FD_BROKER_PID); process.exit(answer.statusCode === 200 ? 0 : 9) })'`

  it('asks the new version alone by the socket that it is told, and its last line is the reason', async () => {
    const both = await judge()
    const edge = await start(both, { http: '/health' })
    const first = await edge.pid
    const health = { ...PACE, passes: 1, timeout: '3s', within: '3s' }
    edge.write({ upgrade: { ...TIMES, health: { ...health, command: asks('/health') } } })
    both.answer = (_request, response) => response.writeHead(500).end()
    const { message } = await refused(edge)
    const [, pid] = /ended with 9 \(status 500 (\d+)\)/.exec(message) ?? []
    const others = edge.lines.map(line => line.pid).filter(other => other !== first)
    expect(others).toContain(Number(pid))
    both.answer = (_request, response) => response.end()
    const next = await edge.next()
    expect(await edge.pid).toBe(next)
  })

  it.runIf(NIGHTLY)('ends by a kill when it takes too long, and the proxy refuses the version', async () => {
    const edge = await start(await judge(), { http: '/health' })
    const file = `${edge.sandbox.folder}/pids`
    const health = { ...PACE, timeout: '300ms', within: '1s', command: `echo $$ >> ${file}; sleep 600` }
    edge.write({ upgrade: { ...TIMES, health } })
    expect(await refused(edge)).toEqual(unhealthy('offering', /command ".*": no answer within 300 ms/))
    const pids = wholeLines(file).map(Number)
    expect(pids.length).toBeGreaterThan(0)
    await until('all have ended', () => pids.every(hasEnded))
  })
})
