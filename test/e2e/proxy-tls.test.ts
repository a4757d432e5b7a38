import { readFileSync, writeFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { parseConfig, startProxy } from '../../src/proxy/index.js'
import { EXPIRED } from '../fixtures/expired-certificate.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Edge, type Line, upstream } from '../processes/edge.js'
import { askTls } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

const answers = (body: string) => [{ host: '*', respond: { body } }]
const QUICK = { upgrade: { probation: '0s' } }

/** A proxy that speaks TLS with a certificate for localhost, and others. */
async function secured(config: Record<string, unknown> = {}, more: readonly string[] = []) {
  const edge = await Edge.prepare({ routes: answers('hello\n'), ...QUICK, ...config })
  const certificates = [edge.issue('localhost'), ...more.map(name => edge.issue(name, [name]))]
  edge.write(edge.secured(certificates))
  await edge.next()
  return { edge, certificates }
}

const seen = async (edge: Edge, servername?: string) =>
  (await askTls(edge.port, servername === undefined ? {} : { servername })).certificate

/** How a connection that sends this ends, and after how many milliseconds. */
function raw(port: number, send: (socket: ReturnType<typeof connectTcp>) => void) {
  const begun = performance.now()
  return new Promise<{ got: Buffer; ms: number }>((resolve, reject) => {
    const got: Buffer[] = []
    const socket = connectTcp({ port, host: '127.0.0.1' }, () => send(socket))
    onTestFinished(() => void socket.destroy())
    socket.on('data', chunk => got.push(chunk)).on('error', () => {})
    socket.on('close', () => resolve({ got: Buffer.concat(got), ms: performance.now() - begun }))
    socket.setTimeout(20_000, () => reject(new Error('it stays open')))
  })
}

describe('a TLS listener', () => {
  it('serves HTTP/1.1, tells servers so, and shows its scheme', async () => {
    const app = await upstream()
    const { edge } = await secured({
      upstreams: { app: { servers: [app.url] } },
      routes: [{ host: '*', upstream: 'app' }],
    })
    const told: unknown[] = []
    app.server.prependListener('request', ({ headers }) => told.push(headers['x-forwarded-proto']))
    const { text, socket } = await askTls(edge.port, { path: '/r/1', ALPNProtocols: ['http/1.1'] })
    expect(text).toMatch(/^HTTP\/1\.1 200 /)
    expect(told).toEqual(['https'])
    expect(socket.alpnProtocol).toBe('http/1.1')
    expect((await edge.status()).listeners[0]).toMatchObject({ scheme: 'https', connections: 1 })
  })

  it('refuses clients of other protocols, or of a version that is too old', async () => {
    const { edge, certificates } = await secured()
    await expect(askTls(edge.port, { ALPNProtocols: ['h3'] })).rejects.toThrow(
      /alert no application protocol/i,
    )
    await edge.reload(edge.secured(certificates, { minVersion: 'TLSv1.3' }))
    await expect(askTls(edge.port, { maxVersion: 'TLSv1.2' })).rejects.toThrow(/alert protocol version/i)
    expect((await askTls(edge.port)).socket.getProtocol()).toBe('TLSv1.3')
  })

  it('takes further settings over after the proxy has closed all connections at once', async () => {
    const edge = await Edge.prepare({ routes: answers('hello\n'), ...QUICK })
    const certificates = [edge.issue('localhost')]
    const configWith = (tls: object) => {
      edge.write(edge.secured(certificates, tls))
      return parseConfig(JSON.stringify(edge.config), 'edge.json')
    }
    const proxy = await startProxy(configWith({}))
    onTestFinished(() => proxy.close({ timeout: 0 }))
    const old = { maxVersion: 'TLSv1.2' } as const
    const { socket } = await askTls(edge.port, old)
    proxy.cut()
    await until('its connection is closed', () => socket.destroyed)
    await proxy.reload(configWith({ minVersion: 'TLSv1.3' }))
    await expect(askTls(edge.port, old)).rejects.toThrow(/alert protocol version/i)
  })

  it('serves on after a program gave it settings that no TLS server can have', async () => {
    const edge = await Edge.prepare({ routes: answers('hello\n'), ...QUICK })
    edge.write(edge.secured([edge.issue('localhost')]))
    const config = parseConfig(JSON.stringify(edge.config), 'edge.json')
    const proxy = await startProxy(config)
    onTestFinished(() => proxy.close({ timeout: 0 }))
    const changed = (tls: object) => ({ ...config, tls: { ...config.tls, ...tls } })
    const upstreams = parseConfig(
      JSON.stringify({ ...edge.config, upstreams: { app: { servers: ['http://127.0.0.1:9'] } } }),
      'edge.json',
    ).upstreams
    await expect(proxy.reload({ ...changed({ rotateTicketKeys: 0 }), upstreams })).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
    })
    expect((await edge.routes('add', '--host', 'a.test', '--upstream', 'app')).stderr).toContain(
      'there is no upstream "app"',
    )
    expect((await askTls(edge.port)).certificate).toBe('localhost')
    await proxy.reload(changed({ minVersion: 'TLSv9' as 'TLSv1.2' }))
    await expect(askTls(edge.port)).rejects.toThrow()
    await proxy.reload(config)
    expect((await askTls(edge.port)).certificate).toBe('localhost')
  })

  it('gives each client the certificate for the name that it asks for', async () => {
    const edge = await Edge.prepare({ routes: answers('hello\n'), ...QUICK })
    const certificates = [
      edge.issue('standard'),
      edge.issue('wild', ['*.a.test', 'b.test']),
      edge.issue('exact', ['www.a.test']),
      edge.issue('later', ['www.a.test', 'c.test']),
      { ...edge.issue('named', ['elsewhere.test']), names: ['d.test'] },
    ]
    edge.write(edge.secured(certificates))
    await edge.next()
    const wanted: [name: string | undefined, certificate: string][] = [
      [undefined, 'standard'],
      ['www.a.test', 'exact'],
      ['WWW.A.TEST', 'exact'],
      ['any.a.test', 'wild'],
      ['a.test', 'standard'],
      ['two.levels.a.test', 'standard'],
      ['b.test', 'wild'],
      ['c.test', 'later'],
      ['d.test', 'named'],
      ['elsewhere.test', 'standard'],
      ['nobody.test', 'standard'],
    ]
    for (const [name, certificate] of wanted) {
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        const found = await askTls(edge.port, { maxVersion, ...(name !== undefined && { servername: name }) })
        expect([name, found.certificate]).toEqual([name, certificate])
      }
    }
  })

  it.each(perLane(['ec'], ['ec', 'rsa:2048']))(
    'keeps kinds of keys apart, the default being %s',
    async first => {
      const edge = await Edge.prepare({
        routes: answers('hello\n'),
        timeouts: { handshake: '1s' },
        ...QUICK,
      })
      const other = first === 'ec' ? 'rsa:2048' : 'ec'
      const certificates = [
        edge.issue('standard', [], first),
        edge.issue('other', ['other.test', '*.other.test'], other),
        edge.issue('same', ['same.test'], first),
        edge.issue('ed', ['ed.test'], 'ed25519'),
        edge.issue('other2', ['other2.test'], other),
      ]
      edge.write(edge.secured(certificates))
      await edge.next()
      const wanted: [name: string | undefined, certificate: string][] = [
        [undefined, 'standard'],
        ['other.test', 'other'],
        ['Sub.Other.test', 'other'],
        ['same.test', 'same'],
        ['ed.test', 'ed'],
        ['other2.test', 'other2'],
        ['nobody.test', 'standard'],
      ]
      for (const [name, certificate] of wanted) {
        for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
          const options = { maxVersion, ...(name !== undefined && { servername: name }) }
          const found = await askTls(edge.port, options)
          expect([name, found.certificate]).toEqual([name, certificate])
          const again = await askTls(edge.port, { ...options, session: found.session })
          expect([name, again.reused]).toEqual([name, true])
        }
      }
      const silent = raw(edge.port, () => {})
      const plain = await raw(edge.port, socket => socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'))
      expect(plain.got.toString('latin1')).not.toContain('HTTP')
      await raw(edge.port, socket => socket.end(Buffer.of(22, 3, 1, 2, 0, 1)))
      expect((await silent).ms).toBeGreaterThan(900)
      const listed = await edge.sandbox.run(
        'certificates',
        'list',
        '--control',
        edge.sandbox.control,
        '--json',
      )
      const { failed } = JSON.parse(listed.stdout).handshakes
      // Only the silent one had to wait for its time to be over.
      expect(failed).toEqual({ 'no-tls': 1, 'broken-off': 1, timeout: 1 })
    },
  )

  it('may forward what is no HTTP', async () => {
    const app = await upstream()
    const { edge, certificates } = await secured({
      upstreams: { app: { servers: [app.url.replace('http:', 'tcp:')] } },
      routes: [],
    })
    const [listener] = edge.secured(certificates).listeners as object[]
    expect((await edge.reload({ listeners: [{ ...listener, forward: 'app' }] })).level).toBe(30)
    const { text, socket } = await askTls(edge.port, { path: '/r/7', ALPNProtocols: ['anything'] })
    expect(text).toMatch(/^HTTP\/1\.1 200 /)
    expect(socket.alpnProtocol).toBe(false)
    expect((await edge.status()).listeners[0]).toMatchObject({ scheme: 'tls' })
  })
})

describe('a changed certificate', () => {
  it('counts for new handshakes after HUP, and closes no connection', async () => {
    const { edge } = await secured()
    const kept = connectTls({ port: edge.port, host: '127.0.0.1', rejectUnauthorized: false })
    onTestFinished(() => void kept.destroy())
    let text = ''
    kept.on('data', chunk => (text += chunk)).on('error', () => {})
    const get = async (n: number) => {
      kept.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      await until('the answer comes', () => text.split('hello\n').length > n)
    }
    await get(1)
    expect(await seen(edge)).toBe('localhost')
    const renewed = edge.issue('renewed')
    for (const kind of ['cert', 'key'] as const)
      writeFileSync(renewed[kind].replace('renewed', 'localhost'), readFileSync(renewed[kind]))
    expect(await seen(edge)).toBe('localhost')
    expect((await edge.reload({})).level).toBe(30)
    expect(await seen(edge)).toBe('renewed')
    await get(2)
  })

  it.runIf(NIGHTLY)('while clients connect all the time: each handshake is whole', async () => {
    const { edge, certificates } = await secured({}, ['a.test'])
    let going = true
    const counts: Record<string, number> = {}
    const clients = Array.from({ length: perLane(4, 8) }, async (_, index) => {
      const servername = index % 2 === 0 ? 'a.test' : 'localhost'
      while (going) {
        const { certificate, socket } = await askTls(edge.port, { servername })
        counts[certificate] = (counts[certificate] ?? 0) + 1
        socket.destroy()
      }
    })
    const fresh = [edge.issue('fresh'), edge.issue('b.test', ['a.test'])]
    for (let n = 0; n < perLane(4, 10); n++) {
      const done = await edge.reload(edge.secured(n % 2 === 0 ? fresh : certificates))
      expect(done.level).toBe(30)
    }
    going = false
    await Promise.all(clients)
    expect(Object.keys(counts).sort()).toEqual(['a.test', 'b.test', 'fresh', 'localhost'])
  })

  it('may make a listener speak TLS, or no more, at the same address', async () => {
    const edge = await Edge.start({ routes: answers('hello\n') })
    const plain = edge.config.listeners
    const get = async () => {
      const client = await edge.raw()
      client.send('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
      return await client.toTheEnd()
    }
    const kept = await edge.raw()
    expect(await get()).toContain('hello')
    expect((await edge.reload(edge.secured([edge.issue('localhost')]))).level).toBe(30)
    expect(await seen(edge)).toBe('localhost')
    expect(await get()).not.toContain('hello')
    kept.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await kept.until(text => text.endsWith('hello\n'))
    expect((await edge.reload({ listeners: plain })).level).toBe(30)
    expect(await get()).toContain('hello')
  })
})

describe('a wrong certificate', () => {
  it('changes nothing, and is named with the place where the file names it', async () => {
    const { edge, certificates } = await secured()
    const other = edge.issue('other', ['other.test'])
    const [first] = certificates
    const refused = async (items: object[]): Promise<Line> => {
      const line = await edge.reload(edge.secured(items))
      expect(line.msg).toBe('the configuration was not applied; the previous one stays in force')
      expect(line.err.code).toBe('ERR_FDB_CONFIG')
      expect(await seen(edge)).toBe('localhost')
      expect(await seen(edge, 'other.test')).toBe('localhost')
      return line
    }
    const missing = await refused([{ ...other, cert: '/nonexistent.crt' }])
    expect(missing.err.message).toMatch(
      /edge\.json:\d+:\d+: tls\.certificates\[0\]\.cert: "\/nonexistent\.crt" cannot be read \(ENOENT\)/,
    )
    const mixed = await refused([first!, { cert: other.cert, key: first!.key }])
    expect(mixed.err.message).toMatch(
      /tls\.certificates\[1\]\.key: ".*localhost\.key": the key does not belong to the certificate for "CN=other"/,
    )
    const nameless = await refused([other, edge.issue('nameless')])
    expect(nameless.err.message).toMatch(/tls\.certificates\[1\]\.cert: ".*nameless\.crt" has no DNS name/)
    expect((await edge.reload(edge.secured([first!, other]))).level).toBe(30)
    expect(await seen(edge, 'other.test')).toBe('other')
  })

  it('still serves when it has expired, with a warning', async () => {
    const { edge } = await secured()
    const files = { cert: `${edge.sandbox.folder}/old.crt`, key: `${edge.sandbox.folder}/old.key` }
    for (const kind of ['cert', 'key'] as const) writeFileSync(files[kind], EXPIRED[kind])
    edge.write(edge.secured([files]))
    const { code, stdout, stderr } = await edge.sandbox.run('proxy', '--check', '--config', edge.file)
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringMatching(/is valid/) })
    expect(stderr).toMatch(/old\.crt.*expired on 2020-02-01T00:00:00\.000Z/)
    await edge.reload({})
    expect(await seen(edge)).toBe('old.test')
    const warning = await edge.logged(
      'clients will refuse a certificate: it expired on 2020-02-01T00:00:00.000Z',
    )
    expect(warning).toMatchObject({ level: 40, certificate: files.cert, names: ['old.test'] })
  })
})

describe('a machine that leaves its balancer', () => {
  it('serves a client whose handshake has begun before the end of the drain', async () => {
    const { edge } = await secured()
    const socket = connectTcp({ port: edge.port, host: '127.0.0.1' })
    onTestFinished(() => void socket.destroy())
    await until('it counts', async () => (await edge.status()).connections === 1)
    const { control } = edge.sandbox
    const drained = edge.sandbox.run('drain', '--control', control, '--wait', '1ms', '--drain', '1ms')
    await until('it ends', async () => (await edge.status()).details?.leaving === 'ended')
    const late = await askTls(edge.port, { socket })
    expect(late.text).toMatch(/^HTTP\/1\.1 200 /)
    expect(late.text).toMatch(/^connection: close/im)
    expect(await drained).toMatchObject({ code: 0, stdout: expect.stringContaining('can be rebooted') })
  })
})

describe('a hostile handshake', () => {
  it.runIf(NIGHTLY)('ends in time, counts by kind, and disturbs no other client', async () => {
    const { edge } = await secured({ timeouts: { handshake: '1s' } })
    const good = await askTls(edge.port)
    let bytes = 0
    const slow = raw(edge.port, socket => {
      // The first bytes of a ClientHello, one after the other.
      const timer = setInterval(() => socket.write(Buffer.of([22, 3, 1, 2, 0, 1][bytes++] ?? 0)), 100)
      socket.on('close', () => clearInterval(timer))
    })
    const silent = Array.from({ length: 50 }, () => raw(edge.port, () => {}))
    const plain = await raw(edge.port, socket => socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'))
    expect(plain.got.toString('latin1')).not.toContain('HTTP')
    await raw(edge.port, socket => socket.write(Buffer.alloc(4096, 0x16)))
    await raw(edge.port, socket => socket.end())
    good.socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    expect((await askTls(edge.port)).text).toContain('hello')
    for (const each of await Promise.all([slow, ...silent])) {
      expect(each.ms).toBeGreaterThan(900)
      expect(each.ms).toBeLessThan(6_000)
    }
    await until('only the two are left', async () => (await edge.status()).listeners[0]?.connections === 2)
    const line = await edge.logged('TLS handshakes failed', () => true, 20_000)
    expect(line.failed).toMatchObject({ timeout: 51, 'broken-off': 1 })
    expect(Object.values(line.failed as Record<string, number>).reduce((a, b) => a + b)).toBe(54)
  })

  it('does not count any more beside the client that it has become', async () => {
    const { edge } = await secured({ limits: { connections: 1 } })
    expect((await askTls(edge.port)).text).toMatch(/^HTTP\/1\.1 200 /)
    expect((await askTls(edge.port)).text).toContain('503')
  })

  it('counts as a connection: one that is too many is told so', async () => {
    const { edge } = await secured({ limits: { connections: 1 }, timeouts: { handshake: '30s' } })
    const first = connectTcp({ port: edge.port, host: '127.0.0.1' })
    onTestFinished(() => void first.destroy())
    await until('it counts', async () => (await edge.status()).connections === 1)
    expect((await askTls(edge.port)).text).toContain('503')
  })
})
