import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { type Config, Edge } from '../processes/edge.js'
import { until } from '../processes/until.js'

/** A server that counts its requests and its open connections. */
async function counting(): Promise<{ url: string; requests: number; connections: number }> {
  const counted = { url: '', requests: 0, connections: 0 }
  const server = createServer({ keepAliveTimeout: 60_000 }, (_, response) => {
    counted.requests++
    response.end('well')
  })
  server.on('connection', socket => {
    counted.connections++
    socket.once('close', () => counted.connections--)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  counted.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return counted
}

const ROUTES = [
  { host: '*', upstream: 'app' },
  { host: '*', path: '/gone', respond: { status: 410 } },
]

async function scene(changes: Config = {}) {
  const [one, two, three] = [await counting(), await counting(), await counting()]
  // Longer than the test: what closes is closed for its reason.
  const app = { servers: [one.url, two.url], keepAlive: { idle: '60s' } }
  const edge = await Edge.prepare({ upstreams: { app }, routes: ROUTES, ...changes })
  const servers = async (...args: string[]) => {
    const [command = '', ...rest] = args
    const ran = await edge.sandbox.run('servers', command, '--control', edge.sandbox.control, ...rest)
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    return ran.stdout
  }
  const all = [one, two, three]
  /** The requests that each server gets of six. */
  const shares = async () => {
    const before = all.map(({ requests }) => requests)
    for (let n = 0; n < 6; n++) expect((await ask(edge.url).answer).status).toBe(200)
    return all.map(({ requests }, n) => requests - before[n]!)
  }
  return { one, two, three, edge, servers, shares }
}

describe('backup servers', () => {
  it('get requests while no other is usable, by the file and by a command, also in the next version', async () => {
    const { one, two, three, edge, servers, shares } = await scene()
    const of = (...backups: string[]) => ({
      upstreams: {
        app: { servers: [one.url, ...backups.map(address => ({ address, backup: true }))] },
      },
    })
    await edge.next()
    expect(await shares()).toEqual([3, 3, 0])
    await edge.reload(of(two.url))
    expect(await shares()).toEqual([6, 0, 0])
    expect(await servers('add', 'app', three.url, '--backup')).toBe('changed, 3 in use in app\n')
    expect(await shares()).toEqual([6, 0, 0])
    await servers('drain', 'app', one.url)
    expect(await shares()).toEqual([0, 3, 3])
    await edge.next()
    expect(await shares()).toEqual([0, 3, 3])
    expect(JSON.parse(await servers('list', '--json'))).toMatchObject([
      { server: one.url, backup: false, state: 'drained' },
      { server: two.url, backup: true, origin: 'file' },
      { server: three.url, backup: true, origin: 'runtime' },
    ])
    expect(await servers('list')).toMatch(
      new RegExp(`^app +${three.url} +runtime +1 +up +backup; changed at run time$`, 'm'),
    )
    await servers('undrain', 'app', one.url)
    expect(await shares()).toEqual([6, 0, 0])
  })
})

describe('changes of servers at run time', () => {
  it('apply at once, and in each next version, until they are undone', async () => {
    const { one, two, three, edge, servers, shares } = await scene({ upgrade: { probation: '60s' } })
    await edge.next()
    expect(await servers('drain', 'app', one.url)).toBe('changed, 1 in use in app\n')
    expect(await servers('add', 'app', three.url, '--weight', '2')).toBe('changed, 2 in use in app\n')
    expect(await shares()).toEqual([0, 2, 4])
    await edge.next()
    expect(await shares()).toEqual([0, 2, 4])
    await edge.logged(
      'changes of servers made at run time override the file (to see them: fd-broker servers list)',
    )
    const { code } = await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    expect(code).toBe(0)
    expect(await shares()).toEqual([0, 2, 4])
    await edge.reload({ accessLog: true })
    expect(await shares()).toEqual([0, 2, 4])
    const rows = JSON.parse(await servers('list', '--json')) as object[]
    expect(rows).toMatchObject([
      { server: one.url, origin: 'file', state: 'drained', weight: 1, check: null },
      { server: two.url, origin: 'file', state: 'up', weight: 1, changed: null },
      { server: three.url, origin: 'runtime', state: 'up', weight: 2 },
    ])
    expect(await servers('list')).toMatch(
      new RegExp(`^app +${one.url} +file +1 +drained +changed at run time$`, 'm'),
    )
    await servers('undrain', 'app', one.url)
    await servers('weight', 'app', three.url, 'file')
    expect(await shares()).toEqual([2, 2, 2])
    expect(three.connections).toBeGreaterThan(0)
    expect(await servers('remove', 'app', three.url)).toBe('changed, 2 in use in app\n')
    await until('the removed server has no connection', () => three.connections === 0)
    expect(await servers('weight', 'app', one.url, '2')).toBe('changed, 2 in use in app\n')
    expect(await shares()).toEqual([4, 2, 0])
    const refused = await edge.sandbox.run(
      'servers',
      'remove',
      '--control',
      edge.sandbox.control,
      'app',
      one.url,
    )
    expect(refused.stderr).toContain('ERR_FDB_SERVERS: no server was changed: ')
    expect(refused.code).not.toBe(0)
  })

  it('made in a probation are in force after the rollback', async () => {
    const { one, edge, servers, shares } = await scene({ upgrade: { probation: '60s' } })
    await edge.next()
    await edge.next()
    await servers('drain', 'app', one.url)
    await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    expect(await shares()).toEqual([0, 6, 0])
  })

  it.runIf(NIGHTLY)(
    'let each server restart in turn, with an upgrade between, and no request fails',
    async () => {
      const { one, two, edge, servers } = await scene({ upgrade: { probation: '0s' } })
      await edge.next()
      const clients = new CountingClients(edge.url)
      for (const server of [one, two]) {
        await servers('drain', 'app', server.url)
        await until('the server has no request', async () => {
          const [before, answers] = [server.requests, clients.answers]
          await until('clients are answered', () => clients.answers > answers + 20)
          return server.requests === before
        })
        const before = server.requests
        await edge.next()
        const { answers } = clients
        await until('clients are answered', () => clients.answers > answers + 20)
        expect(server.requests).toBe(before)
        await servers('undrain', 'app', server.url)
        await until('the server has requests', () => server.requests > before)
      }
      await clients.stop()
    },
  )

  it('apply to all workers', async () => {
    const { one, edge, servers, shares } = await scene({ workers: 2 })
    await edge.launch()
    await until('both serve', () => edge.lines.filter(({ msg }) => msg === 'the proxy serves').length === 2)
    await servers('drain', 'app', one.url)
    await until('no worker uses the server', async () => (await shares())[0] === 0)
    expect(await shares()).toEqual([0, 6, 0])
  })
})
