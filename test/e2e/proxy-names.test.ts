import { once } from 'node:events'
import { Agent, createServer } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Answer, ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { NameServer, type Zone } from '../processes/name-server.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'

const DEAD = Array.from({ length: 12 }, (_, i) => `dead${i}.test`)

/** A server that answers with its own address. */
async function at(address: string, port: number): Promise<void> {
  const server = createServer({ keepAliveTimeout: 60_000 }, (_request, response) => response.end(address))
  server.listen(port, address)
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
}

/** A proxy whose only name server is ours, with an upstream for each name: `NAME.client` is for `NAME.test`. */
async function start(port: number, zones: Record<string, Zone>, upstream: object = {}) {
  const names = await NameServer.start(zones)
  const all = Object.keys(zones).map(zone => zone.replace('.test', ''))
  const edge = await Edge.start({
    resolver: { servers: [names.address], timeout: '60s' },
    upstreams: Object.fromEntries(
      all.map(name => [name, { servers: [`http://${name}.test:${port}`], ...upstream }]),
    ),
    routes: all.map(name => ({ host: `${name}.client`, upstream: name })),
    timeouts: { connect: '60s' },
  })
  const get = (name: string, agent?: Agent): Promise<Answer> =>
    ask(edge.url, { headers: { host: `${name}.client` }, ...(agent && { agent }) }).answer
  return { edge, names, get }
}

describe('a server that is named by its name', () => {
  it('answers while the name servers are silent about twelve others', async () => {
    const port = await freePort()
    await at('127.0.0.1', port)
    const silent = Object.fromEntries(DEAD.map(name => [name, 'silent' as const]))
    const { names, get } = await start(port, { ...silent, 'good.test': { a: ['127.0.0.1'] } })
    let answered = 0
    for (const name of DEAD)
      void get(name.replace('.test', '')).then(
        () => answered++,
        () => {},
      )
    await until('all twelve are asked for', () => DEAD.every(name => names.timesAsked(name) > 0))
    for (let n = 0; n < 5; n++) expect(await get('good')).toMatchObject({ status: 200, body: '127.0.0.1' })
    expect(answered).toBe(0)
  })

  it('keeps its requests at another address while its connection is in use all the time', async () => {
    const port = await freePort()
    await at('127.0.0.1', port)
    await at('127.0.0.2', port)
    const { names, get } = await start(port, { 'app.test': { a: ['127.0.0.1'], ttl: 1 } })
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    onTestFinished(() => agent.destroy())
    expect(await get('app', agent)).toMatchObject({ body: '127.0.0.1' })
    names.zones.set('app.test', { a: ['127.0.0.2'], ttl: 1 })
    await until('the other address answers', async () => {
      const { status, body } = await get('app', agent)
      expect(status).toBe(200)
      return body === '127.0.0.2'
    })
    for (let n = 0; n < 20; n++) expect(await get('app', agent)).toMatchObject({ body: '127.0.0.2' })
  })

  it('gets requests at each of its addresses; one that refuses costs no request', async () => {
    const port = await freePort()
    await at('127.0.0.1', port)
    await at('127.0.0.2', port)
    const addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3']
    const { edge, get } = await start(
      port,
      { 'app.test': { a: addresses } },
      { keepAlive: { connections: 0 } },
    )
    const by = new Map<string, number>()
    for (let n = 0; n < 12; n++) {
      const { status, body } = await get('app')
      expect(status).toBe(200)
      by.set(body, (by.get(body) ?? 0) + 1)
    }
    expect([...by.keys()].sort()).toEqual(['127.0.0.1', '127.0.0.2'])
    expect(Math.min(...by.values())).toBeGreaterThanOrEqual(4)
    expect(edge.lines.filter(({ msg }) => String(msg).startsWith('a server failed'))).toEqual([])
  })

  it('has its address from other name servers when the configuration says so', async () => {
    const port = await freePort()
    await at('127.0.0.1', port)
    await at('127.0.0.2', port)
    const { edge, get } = await start(port, { 'app.test': { a: ['127.0.0.1'] } })
    expect(await get('app')).toMatchObject({ body: '127.0.0.1' })
    const other = await NameServer.start({ 'app.test': { a: ['127.0.0.2'] } })
    expect((await edge.reload({ resolver: { servers: [other.address] } })).level).toBe(30)
    await until('the other address answers', async () => (await get('app')).body === '127.0.0.2')
  })

  it('has its address from the same name servers as before when the configuration is refused', async () => {
    const port = await freePort()
    await at('127.0.0.1', port)
    await at('127.0.0.2', port)
    const { edge, get } = await start(port, { 'app.test': { a: ['127.0.0.1'] } })
    expect(await get('app')).toMatchObject({ body: '127.0.0.1' })
    const other = await NameServer.start({ 'app.test': { a: ['127.0.0.2'] } })
    const taken = { name: 'taken', address: `tcp://127.0.0.1:${port}` }
    const refused = await edge.reload({
      resolver: { servers: [other.address] },
      listeners: [...(edge.config.listeners as object[]), taken],
    })
    expect(refused.err).toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE' })
    expect(await get('app')).toMatchObject({ body: '127.0.0.1' })
    expect(other.timesAsked('app.test')).toBe(0)
  })

  it('has no address: the request fails at once, and the log names the server and the reason', async () => {
    const { edge, names, get } = await start(await freePort(), { 'gone.test': {} })
    names.zones.delete('gone.test')
    expect(await get('gone')).toMatchObject({ status: 502 })
    const { level, host, code } = await edge.logged('the name of a server could not be looked up')
    expect([level, host, code]).toEqual([40, 'gone.test', 'ENOTFOUND'])
  })
})
