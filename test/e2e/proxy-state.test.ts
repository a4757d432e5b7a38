import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { withServing } from '../../src/cli/state-source.js'
import { fdbroker } from '../../src/proto/proxy.js'
import { STATE_COMMANDS } from '../../src/state/commands.js'
import { encodeImport } from '../../src/state/import.js'
import { PUT } from '../../src/state/records.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'

const QUICK = { upgrade: { probation: '0s' }, drain: { timeout: '1m' } }

/** The entries of a section, as `fd-broker state show` prints them. */
async function shown(edge: Edge, section: string): Promise<Record<string, Record<string, unknown>>> {
  const { stdout, stderr } = await edge.sandbox.run(
    ...['state', 'show', '--control', edge.sandbox.control, '--section', section],
  )
  expect(stderr).toBe('')
  const lines = stdout.split('\n').filter(line => line !== '')
  return Object.fromEntries(lines.map(line => JSON.parse(line)).map(({ key, value }) => [key, value]))
}

const differs = 'the configuration has changed'
const served =
  'routes made at run time lead to upstreams that only the state has, not the file; they are served'

describe('the configuration of the proxy', () => {
  it('stands in the state, where the tools show it; the next version writes only differences, and says which', async () => {
    const [one, two] = [await upstream('one'), await upstream('two')]
    const edge = await Edge.start({
      upstreams: { app: { servers: [one.url] }, old: { servers: [one.url] } },
      routes: [{ host: '*', upstream: 'app' }],
      ...QUICK,
    })
    expect(await shown(edge, 'upstreams')).toMatchObject({
      app: { servers: [one.url], failures: 3, connectTimeoutMs: 3000, generation: 1 },
      old: { generation: 1 },
    })
    expect(await shown(edge, 'listeners')).toMatchObject({
      http: { address: `tcp://127.0.0.1:${edge.port}`, generation: 1 },
    })
    const settings = await shown(edge, 'settings')
    expect(settings).toMatchObject({
      'timeouts.idle': { number: 60_000 },
      instanceHeader: { text: 'X-Pid' },
      accessLog: { flag: false },
    })
    expect(edge.lines.some(({ msg }) => msg === differs)).toBe(false)

    await edge.next()
    expect(edge.lines.some(({ msg }) => msg === differs)).toBe(false)
    const port = await freePort()
    const listeners = [
      ...(edge.config.listeners as object[]),
      { name: 'more', address: `tcp://127.0.0.1:${port}` },
    ]
    edge.write({ upstreams: { app: { servers: [one.url, two.url] } }, listeners, timeouts: { idle: '5s' } })
    await edge.next()
    expect(await edge.logged(differs)).toMatchObject({
      upstreams: { changed: ['app'], removed: ['old'] },
      listeners: { added: ['more'] },
      settings: { changed: ['timeouts.idle', 'timeouts.stall', 'timeouts.tunnel'] },
    })
    expect(await shown(edge, 'upstreams')).toMatchObject({
      app: { servers: [one.url, two.url], generation: 3 },
    })
    expect(await shown(edge, 'listeners')).toMatchObject({ http: { generation: 1 }, more: { generation: 3 } })

    await edge.reload({ accessLog: true, upstreams: { app: { servers: [two.url] } } })
    expect(Object.keys(await shown(edge, 'upstreams'))).toEqual(['app'])
    expect((await shown(edge, 'settings')).accessLog).toMatchObject({ flag: true, generation: 3 })
    expect(edge.lines.filter(({ msg }) => msg === differs)).toHaveLength(2)
  })

  it.runIf(NIGHTLY)(
    'has the upstreams that routes made at run time need, also where the file lacks them',
    async () => {
      const app = await upstream('app')
      const spare = await upstream('spare')
      const upstreams = { app: { servers: [app.url] } }
      const edge = await Edge.start({
        upstreams: { ...upstreams, spare: { servers: [spare.url] }, unused: { servers: [app.url] } },
        routes: [{ host: '*', upstream: 'app' }],
        ...QUICK,
      })
      await edge.routes('add', '--host', 'a.test', '--upstream', 'spare')
      const answeredBy = async () =>
        (await ask(`${edge.url}/r/1`, { headers: { host: 'a.test' } }).answer).headers['x-upstream']
      expect(await answeredBy()).toBe('spare')
      edge.write({ upstreams })
      for (let generation = 2; generation <= perLane(2, 3); generation++) {
        const pid = await edge.next()
        expect(await answeredBy()).toBe('spare')
        expect(await edge.logged(served, line => line.pid === pid)).toMatchObject({
          routes: ['a.test/'],
          count: 1,
          upstreams: ['spare'],
        })
        expect(Object.keys(await shown(edge, 'upstreams')).toSorted()).toEqual(['app', 'spare'])
      }
      await edge.reload({ accessLog: true })
      expect(await answeredBy()).toBe('spare')
      // Which ends with the last such route.
      await edge.routes('remove', '--host', 'a.test')
      await edge.reload({ accessLog: false })
      expect(Object.keys(await shown(edge, 'upstreams'))).toEqual(['app'])
      expect(await answeredBy()).toBe('app')
    },
  )

  it('comes back after a reboot from a state file, with routes made at run time that need it', async () => {
    const [app, spare] = [await upstream('app'), await upstream('spare')]
    const edge = await Edge.prepare({
      upstreams: { app: { servers: [app.url] }, spare: { servers: [spare.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    edge.write({ stateFile: join(edge.sandbox.folder, 'edge.state') })
    const first = await edge.next()
    expect((await edge.routes('add', '--host', 'a.test', '--upstream', 'spare')).code).toBe(0)
    await edge.stateWritten()
    await edge.signal('SIGKILL', first)
    await edge.ended(first)
    edge.write({ upstreams: { app: { servers: [app.url] } } })
    await edge.next()
    const { headers } = await ask(`${edge.url}/r/1`, { headers: { host: 'a.test' } }).answer
    expect(headers['x-upstream']).toBe('spare')
    expect(await edge.logged(served)).toMatchObject({ upstreams: ['spare'] })
  })

  it('of a newer version is not damaged by an older one, and what that cannot use is named', async () => {
    const app = await upstream('app')
    const edge = await Edge.start({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
      ...QUICK,
    })
    // Field 100, bytes.
    const unknown = Buffer.of(0xa2, 0x06, 2, 7, 7)
    const { Upstream, Setting, Route } = fdbroker.proxy
    const entry = (section: string, key: string, value: Uint8Array) => ({
      section,
      op: PUT,
      key,
      value,
      version: 2,
    })
    const quic = Upstream.encode({ servers: ['quic://a:1'], coolDownMs: 1, generation: 1 }).finish()
    const schemas = ['upstreams', 'settings', 'routes'].map(name => {
      return { name, version: 2, minReader: 1, codec: 'protobuf', secret: false }
    })
    const changes = [
      entry(
        'upstreams',
        'app',
        Buffer.concat([Upstream.encode({ servers: ['http://a:1'] }).finish(), unknown]),
      ),
      entry('upstreams', 'quic', quic),
      entry('settings', 'timeouts.idle', Buffer.concat([Setting.encode({ number: 1 }).finish(), unknown])),
      entry('settings', 'quic.window', Setting.encode({ number: 7 }).finish()),
      entry('routes', 'runtime:q.test/', Route.encode({ upstream: { name: 'quic' } }).finish()),
    ]
    const body = Buffer.concat([Buffer.from('{}\n'), encodeImport(schemas, changes)])
    const options = { control: edge.sandbox.control, service: '', timeout: 20_000 }
    await withServing(options, request => request(STATE_COMMANDS.import, body))
    await edge.logged('an upstream of the state cannot be used by this version: requests for it get 503')
    const before = await raw(edge)
    await edge.next()
    const after = await raw(edge)
    expect(Upstream.decode(Buffer.from(after['upstreams app']!, 'hex')).servers).toEqual([app.url])
    expect(Setting.decode(Buffer.from(after['settings timeouts.idle']!, 'hex')).number).toBe(60_000)
    for (const key of ['upstreams app', 'settings timeouts.idle']) {
      expect(after[key]).toMatch(new RegExp(`${unknown.toString('hex')}$`))
      expect(after[key]).not.toBe(before[key])
    }
    expect(after['settings quic.window']).toBe(before['settings quic.window'])
    expect(after['routes runtime:q.test/']).toBe(before['routes runtime:q.test/'])
    expect((await ask(edge.url, { headers: { host: 'q.test' } }).answer).body).toBe('upstream-unknown\n')
    // Nothing else knows what it was: it stays as long as there is the route.
    expect(after['upstreams quic']).toBe(before['upstreams quic'])
  })
})

/** Values in hexadecimal, by section and key. */
async function raw(edge: Edge): Promise<Record<string, string>> {
  const { stdout } = await edge.sandbox.run('state', 'export', '--control', edge.sandbox.control)
  const [, ...lines] = stdout.split('\n').filter(line => line !== '')
  return Object.fromEntries(
    lines
      .map(line => JSON.parse(line))
      .map(({ section, key, base64 = '' }) => [
        `${section} ${key}`,
        Buffer.from(base64, 'base64').toString('hex'),
      ]),
  )
}
