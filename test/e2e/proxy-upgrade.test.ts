import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { Agent, createServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { edgeRoutes } from '../../bench/proxy/edge.mjs'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { pause, until } from '../processes/until.js'
import { behind } from './edge-behind.js'

const ROUTES = perLane(5_000, 100_000)
/** `FDB_UPGRADES=60` for the whole bar. */
const UPGRADES = Number(process.env.FDB_UPGRADES ?? perLane(1, 12))
const EVERY_MS = 1_000
const QUICK = { upgrade: { probation: '0s' } }

async function addMany(edge: Edge, count: number): Promise<void> {
  const file = join(edge.sandbox.folder, 'routes.jsonl')
  writeFileSync(file, edgeRoutes(count))
  const { code, stdout, stderr } = await edge.routes('add', '--file', file)
  expect({ code, stdout, stderr }).toMatchObject({ code: 0, stdout: `${count} added\n` })
}

describe('an upgrade of the proxy', () => {
  it(`serves ${ROUTES} routes made at run time, which survive a file that does not know them`, async () => {
    const edge = await behind()
    await addMany(edge, ROUTES)
    const answeredBy = async (n: number) => (await ask(`${edge.url}/r/${n}`).answer).headers['x-upstream']
    expect(await answeredBy(ROUTES - 1)).toBe('odd')
    const before = (await edge.status()).sections.find(({ name }) => name === 'routes')
    edge.write({ routes: [{ host: 'new.test', respond: { body: 'new\n' } }] })
    const pid = await edge.launch()
    // The next version reads all routes before it serves.
    await edge.logged('the proxy serves', line => line.pid === pid, 90_000)
    for (const n of [0, 1, 2, 4_711, ROUTES / 2, ROUTES - 2, ROUTES - 1])
      expect(await answeredBy(n)).toBe(n % 2 === 0 ? 'even' : 'odd')
    expect((await ask(edge.url).answer).status).toBe(404)
    expect((await ask(edge.url, { headers: { host: 'new.test' } }).answer).body).toBe('new\n')
    const status = await edge.status()
    expect(status).toMatchObject({ pid, generation: 2 })
    const after = status.sections.find(({ name }) => name === 'routes')
    // One route of the file went, one came.
    expect(after?.entries).toBe(before?.entries)
    expect(after?.entries).toBe(ROUTES + 1)
  })

  it(
    `loses nothing, ${UPGRADES} times, each second, with WebSockets and slow requests open`,
    async () => {
      const edge = await behind()
      await addMany(edge, 1_000)
      const first = await edge.talking()
      await first.says('before')
      const load = await loadOn(edge.url, {
        routes: 1_000,
        workload: 'proxy',
        webSockets: 6,
        slow: 4,
        writes: 10,
      })
      const pids = [await edge.pid]
      for (let n = 0; n < UPGRADES; n++) {
        const due = performance.now() + EVERY_MS
        const pid = await edge.next()
        pids.push(pid)
        await load.answeredBy(pid)
        await pause(Math.max(0, due - performance.now()))
      }
      await first.says('after')
      const old = pids.slice(0, -1)
      // The connections have moved, those of the load too.
      await until('the old generations have ended', () => old.every(hasEnded), 20_000)
      const report = await load.stop()
      expect(report.webSockets.messages).toBeGreaterThan(UPGRADES * 5)
      expect(report.total.answered).toBeGreaterThan(UPGRADES * 200)
      first.socket.close(1000)
      expect((await edge.status()).generation).toBe(UPGRADES + 1)
    },
    UPGRADES * 3_000 + 40_000,
  )

  it('shows every generation that drains, while they are replaced each second', async () => {
    const edge = await behind({ drain: { timeout: '5m', move: 'off' } })
    const pids: number[] = []
    for (let n = 0; n < perLane(2, 3); n++) {
      await edge.talking()
      pids.push(await edge.pid)
      const due = performance.now() + EVERY_MS
      await edge.next()
      const shown = async () => (await edge.status()).draining.filter(each => each.connections === 1)
      await until(
        'all of them are shown',
        async () => (await shown()).map(({ pid }) => pid).join() === pids.join(),
        EVERY_MS,
        async () => (await edge.status()).draining,
      )
      await pause(Math.max(0, due - performance.now()))
    }
    expect(pids.every(pid => !hasEnded(pid))).toBe(true)
  })

  it('keeps every route that was added while it went on', async () => {
    const edge = await behind()
    const added: string[] = []
    const add = async () => {
      const host = `n${added.length}.test`
      const { code, stdout, stderr } = await edge.routes('add', '--host', host, '--upstream', 'odd')
      expect({ code, stdout, stderr }).toMatchObject({ code: 0, stderr: '' })
      added.push(host)
    }
    for (let n = 0; n < perLane(1, 4); n++) {
      // The tool may take longer than the upgrade: one at least begins with it, and ends when it ends.
      let upgrading = true
      const adding = async () => {
        do await add()
        while (upgrading)
      }
      await Promise.all([adding(), edge.next().finally(() => (upgrading = false))])
    }
    for (const host of added) {
      const { headers } = await ask(`${edge.url}/r/1`, { headers: { host } }).answer
      expect([host, headers['x-upstream']]).toEqual([host, 'odd'])
    }
  })

  it.runIf(NIGHTLY)(
    'lets connections of the old process find the routes they knew, whatever the new file says',
    async () => {
      const [app, other] = [await upstream('app'), await upstream('other')]
      const edge = await Edge.start({
        ...QUICK,
        accessLog: true,
        upstreams: { app: { servers: [app.url] } },
        routes: [{ host: '*', upstream: 'app' }],
        drain: { move: 'off' },
      })
      const kept = await edge.raw()
      const get = async (n: number) => {
        kept.send(`GET /r/${n} HTTP/1.1\r\nHost: a\r\n\r\n`)
        return await kept.until(text => text.endsWith(`${n} item-${n}\n`) || text.includes('HTTP/1.1 5'))
      }
      expect(await get(1)).toMatch(/x-upstream: app/i)
      const old = await edge.pid
      edge.write({
        upstreams: { renamed: { servers: [other.url] } },
        routes: [{ host: '*', upstream: 'renamed' }],
      })
      await edge.next()
      expect((await ask(`${edge.url}/r/2`).answer).headers['x-upstream']).toBe('other')
      // Long enough for the old process to have read what the new one wrote.
      expect((await edge.routes('add', '--host', 'more.test', '--upstream', 'renamed')).code).toBe(0)
      const last = await get(3)
      expect(last).toMatch(/^HTTP\/1\.1 200 [\s\S]*connection: close/i)
      expect(last).toMatch(/x-upstream: app/i)
      expect(last).toContain(`X-Pid: ${old}`)
      kept.socket.end()
      await edge.ended(old)
    },
  )

  it('does not happen when the next version cannot start, and the log says why', async () => {
    const edge = await behind()
    const pid = await edge.pid
    edge.write({
      listeners: [
        { name: 'http', address: `tcp://127.0.0.1:${edge.port}` },
        { name: 'far', address: 'tcp://203.0.113.1:80' },
      ],
    })
    const failed = await edge.launch()
    await edge.ended(failed)
    edge.write({ listeners: 'none' })
    const wrong = await edge.launch()
    await edge.ended(wrong)
    expect(edge.sandbox.output).toMatch(/ERR_FDB_CONFIG: .*edge\.json:\d+:\d+: listeners: /)
    expect((await ask(edge.url).answer).headers['x-pid']).toBe(String(pid))
    expect(await edge.status()).toMatchObject({ pid, generation: 1, role: 'serving' })
  })

  it('reverts when the next version dies in probation: the routes are those of the old file again', async () => {
    const edge = await behind({ upgrade: { probation: '30s' } })
    const first = await edge.pid
    await addMany(edge, 10)
    edge.write({ routes: [{ host: '*', respond: { body: 'new\n' } }] })
    const second = await edge.next()
    expect((await ask(edge.url).answer).body).toBe('new\n')
    expect((await edge.routes('add', '--host', 'kept.test', '--upstream', 'even')).code).toBe(0)
    signalPid(second, 'SIGKILL')
    await edge.logged('the routes of the file are in force', line => line.pid === first && line.removed === 0)
    await until('the old process serves', async () => (await edge.status().catch(() => null))?.pid === first)
    const by = async (path: string, host = 'a') =>
      (await ask(`${edge.url}${path}`, { headers: { host } }).answer).headers['x-upstream']
    expect(await by('/r/3')).toBe('odd')
    expect(await by('/r/99')).toMatch(/even|odd/)
    expect(await by('/r/1', 'kept.test')).toBe('even')
  })

  it('closes its unused connections to servers when its last client has moved, also while it stands by', async () => {
    const server = createServer((_request, response) => response.end('ok\n')).listen(0, '127.0.0.1')
    onTestFinished(() => void server.close().closeAllConnections())
    const sockets: Socket[] = []
    server.on('connection', socket => sockets.push(socket))
    server.keepAliveTimeout = 60_000
    await once(server, 'listening')
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const edge = await Edge.start({
      upgrade: { probation: '1m' },
      upstreams: { app: { servers: [url], keepAlive: { idle: '10m' } } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const body = async () => (await ask(edge.url, { agent }).answer).body
    expect(await body()).toBe('ok\n')
    expect(sockets).toHaveLength(1)
    const old = await edge.pid
    await edge.next()
    await until('its connection to the server is closed', () => sockets[0]!.destroyed)
    expect(hasEnded(old)).toBe(false)
    expect(await body()).toBe('ok\n')
    expect(sockets).toHaveLength(2)
  })

  it('counts connections of the relay, and ends what is left after drain.timeout, each as its protocol asks', async () => {
    const edge = await behind({ drain: { timeout: '1s', move: 'off' } })
    const agent = new Agent({ keepAlive: true })
    onTestFinished(() => agent.destroy())
    const first = await edge.talking()
    await ask(`${edge.url}/r/1`, { agent }).answer
    const old = await edge.pid
    expect((await edge.status()).listeners[0]!.connections).toBe(2)
    await edge.next()
    const draining = async () => (await edge.status()).draining.find(({ pid }) => pid === old)
    await until('the old one tells its connections', async () => ((await draining())?.connections ?? 0) >= 1)
    const closed = new Promise(resolve =>
      first.socket.once('close', (code, reason) => resolve(`${code} ${reason}`)),
    )
    expect(await closed).toBe('1001 the server is going away')
    expect(await edge.logged('connections did not end in time and were closed')).toMatchObject({
      pid: old,
      afterMs: 1_000,
      closed: [
        { kind: 'webSocket', reason: 'open', count: 1 },
        { kind: 'http', reason: 'idle', count: 1 },
      ],
    })
    expect((await edge.status()).closed).toEqual([
      { kind: 'webSocket', reason: 'open', count: 1 },
      { kind: 'http', reason: 'idle', count: 1 },
    ])
    await edge.ended(old)
  })
})
