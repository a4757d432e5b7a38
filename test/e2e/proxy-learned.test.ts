import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { Agent, createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { NameServer, type Zone } from '../processes/name-server.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

async function server(answer: RequestListener, address = '127.0.0.1', port = 0): Promise<string> {
  const made = createServer({ keepAliveTimeout: 60_000 }, answer)
  made.listen(port, address)
  await once(made, 'listening')
  onTestFinished(() => {
    made.close()
    made.closeAllConnections()
  })
  return `http://${address}:${(made.address() as AddressInfo).port}`
}

/** A server that breaks each connection, and one that answers. */
async function broken() {
  let isMended = false
  const broken = { tries: 0, url: '', well: '', mend: () => void (isMended = true) }
  broken.url = await server((request, response) => {
    broken.tries++
    if (isMended) response.end('well')
    else request.socket.destroy()
  })
  broken.well = await server((_, response) => response.end('well'))
  return broken
}

const ROUTES = [{ host: '*', upstream: 'app' }]
/** A request with a body is not sent again to another server. */
const status = async (edge: Edge) => (await ask(edge.url, { method: 'POST', body: 'x' }).answer).status

async function named(zones: Record<string, Zone>, port: number, changes: object = {}) {
  const names = await NameServer.start(zones)
  const edge = await Edge.start({
    resolver: { servers: [names.address], timeout: '1s' },
    upstreams: { app: { servers: [`http://app.test:${port}`] } },
    routes: ROUTES,
    ...changes,
  })
  return { names, edge }
}

describe('knowledge of a proxy about servers', () => {
  it('reaches the next version, which does not try a server that is down', async () => {
    const { url, well } = await broken()
    const health = { failures: 1, coolDown: '1h' }
    const edge = await Edge.start({ upstreams: { app: { servers: [url, well], health } }, routes: ROUTES })
    await until('the server is down', async () => (await status(edge)) === 502)
    await edge.next()
    for (let n = 0; n < 6; n++) expect(await status(edge)).toBe(200)
    expect((await edge.status()).details).toMatchObject({ serversOut: [{ server: url, state: 'down' }] })
  })

  it('ends when the server answers again, also in the next version', async () => {
    const { url, well, mend } = await broken()
    const health = { failures: 1, coolDown: '50ms' }
    const edge = await Edge.start({ upstreams: { app: { servers: [url, well], health } }, routes: ROUTES })
    await until('the server is down', async () => (await status(edge)) === 502)
    mend()
    await until('the server is up', async () => {
      await status(edge)
      return edge.lines.some(({ msg }) => msg === 'a server responds and gets requests again')
    })
    await edge.next()
    expect((await edge.status()).details).toMatchObject({ serversOut: [] })
  })

  it.each([
    ['down', 'servers.down', { health: { failures: 1, coolDown: '1h' } }],
    [
      'failing',
      'servers.checks',
      { health: { failures: 'off' }, check: { http: '/', fall: 1, interval: '1h' } },
    ],
  ])('ends when an import clears its section: a server is %s', async (state, section, rules) => {
    const { url, well, mend } = await broken()
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [url, well], ...rules } },
      routes: ROUTES,
    })
    await edge.next()
    await until('the server is out', async () => {
      await status(edge)
      const { details } = await edge.status()
      return JSON.stringify(details).includes(`"state":"${state}"`)
    })
    const file = join(edge.sandbox.folder, 'state.jsonl')
    const place = ['--control', edge.sandbox.control]
    await edge.sandbox.run('state', 'export', ...place, '--secrets', '--out', file)
    const text = readFileSync(file, 'utf8')
    writeFileSync(file, text.slice(0, text.indexOf('\n') + 1))
    mend()
    const flags = ['--replace', '--edited', '--file', file, '--section', section]
    const ran = await edge.sandbox.run('state', 'import', ...place, ...flags)
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    expect((await edge.status()).details).toMatchObject({ serversOut: [] })
  })

  it('reaches a worker whose neighbour has learned it', async () => {
    const bad = await broken()
    const health = { failures: 1, coolDown: '1h' }
    const edge = await Edge.prepare({
      workers: 2,
      upstreams: { app: { servers: [bad.url, bad.well], health } },
      routes: ROUTES,
    })
    await edge.launch()
    await until('both serve', () => edge.lines.filter(({ msg }) => msg === 'the proxy serves').length === 2)
    await until('the server is down', async () => (await status(edge)) === 502)
    await until('both know', async () => {
      const reports = await Promise.all(
        ['edge', 'edge.1'].map(service =>
          edge.sandbox.run('status', '--json', '--control', edge.sandbox.control, '--service', service),
        ),
      )
      return reports.every(({ stdout }) => stdout.includes(bad.url))
    })
    for (let n = 0; n < 8; n++) expect(await status(edge)).toBe(200)
    expect(bad.tries).toBe(1)
  })

  it('includes the addresses of names: an upgrade while no name server answers fails no request', async () => {
    const port = await freePort()
    await server((_, response) => response.end('well'), '127.0.0.1', port)
    const { names, edge } = await named({ 'app.test': { a: ['127.0.0.1'], ttl: 1 } }, port)
    expect(await status(edge)).toBe(200)
    names.zones.set('app.test', 'silent')
    await edge.next()
    for (let n = 0; n < 3; n++) expect(await status(edge)).toBe(200)
  })

  it('does not include a name that only the next version has: it is looked up before that serves', async () => {
    const port = await freePort()
    await server((_, response) => response.end('well'), '127.0.0.1', port)
    const zones = { 'app.test': { a: ['127.0.0.1'] }, 'new.test': { a: ['127.0.0.1'] } }
    const { names, edge } = await named(zones, port)
    edge.write({ upstreams: { app: { servers: [`http://new.test:${port}`] } } })
    await edge.next()
    expect(names.timesAsked('new.test')).toBe(1)
    expect(await status(edge)).toBe(200)
  })

  it('does not count if the next version has other name servers', async () => {
    const port = await freePort()
    await server((_, response) => response.end('one'), '127.0.0.1', port)
    await server((_, response) => response.end('two'), '127.0.0.2', port)
    const { edge } = await named({ 'app.test': { a: ['127.0.0.1'] } }, port)
    expect(await status(edge)).toBe(200)
    const other = await NameServer.start({ 'app.test': { a: ['127.0.0.2'] } })
    edge.write({ resolver: { servers: [other.address] } })
    await edge.next()
    expect(await ask(edge.url).answer).toMatchObject({ body: 'two' })
  })
})

describe('the new addresses of a name', () => {
  it('get requests although kept connections to the old address suffice', async () => {
    const port = await freePort()
    const counts = new Map<string, number>()
    for (const address of ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
      await server((_, response) => response.end(address), address, port)
    const { names, edge } = await named({ 'app.test': { a: ['127.0.0.1'], ttl: 1 } }, port)
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    onTestFinished(() => agent.destroy())
    const get = async () => {
      const { status, body } = await ask(edge.url, { agent }).answer
      expect(status).toBe(200)
      counts.set(body, (counts.get(body) ?? 0) + 1)
    }
    await get()
    names.zones.set('app.test', { a: ['127.0.0.1', '127.0.0.2', '127.0.0.3'], ttl: 60 })
    await until('all three are used', async () => {
      await get()
      return counts.size === 3
    })
    counts.clear()
    for (let n = 0; n < 30; n++) await get()
    expect([...counts.values()].toSorted()).toEqual([10, 10, 10])
  })
})
