import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { WebSocket } from 'ws'
import { FdbError } from '../../src/errors.js'
import { afterHandoff } from '../../src/proxy/after-handoff.js'
import { configFrom, type ProxyDocument, startProxy } from '../../src/proxy/index.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { askTls } from '../processes/tls-client.js'
import { until } from '../processes/until.js'
import { workOf } from '../processes/worked.js'

const answers = (body: string) => [{ host: '*', respond: { body } }]
const bodyAt = async (port: number) => (await ask(`http://127.0.0.1:${port}/`).answer).body
const refused = (port: number) =>
  bodyAt(port).then(
    () => false,
    () => true,
  )

describe('HUP', () => {
  it('takes routes, upstreams and limits over, and loses no connection', async () => {
    const [one, two] = [await upstream('one'), await upstream('two')]
    const edge = await Edge.start({
      upstreams: { app: { servers: [one.url] }, gone: { servers: [one.url] } },
      routes: [
        { host: '*', upstream: 'app' },
        { host: 'gone.test', upstream: 'gone' },
      ],
    })
    const kept = await edge.raw()
    const get = async (n: number) => {
      kept.send(`GET /r/${n} HTTP/1.1\r\nHost: a\r\n\r\n`)
      return await kept.until(text => text.endsWith(`${n} item-${n}\n`))
    }
    expect(await get(1)).toMatch(/x-upstream: one/i)
    const slow = ask(`${edge.url}/slow`).answer
    const socket = new WebSocket(`${edge.url.replace('http', 'ws')}/ws`)
    onTestFinished(() => socket.terminate())
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    const pid = await edge.pid
    const done = await edge.reload({
      instanceHeader: 'X-Other',
      upstreams: { app: { servers: [two.url] }, fresh: { servers: [two.url] } },
      routes: [
        { host: '*', upstream: 'app' },
        { host: 'fresh.test', upstream: 'fresh' },
      ],
    })
    expect(done).toMatchObject({ msg: 'the configuration was read again', pid })
    expect(await get(2)).toMatch(/x-upstream: two/i)
    const fresh = await ask(`${edge.url}/r/3`, { headers: { host: 'fresh.test' } }).answer
    expect(fresh).toMatchObject({ status: 200, body: '3 item-3\n' })
    expect(fresh.headers).toMatchObject({ 'x-upstream': 'two', 'x-other': String(pid) })
    expect((await slow).body).toBe('slow but sure\n')
    const echoed = new Promise(resolve => socket.once('message', data => resolve(String(data))))
    socket.send('still here')
    expect(await echoed).toBe('still here')
    expect(kept.ended).toBe(false)
    expect((await edge.status()).generation).toBe(1)
  })

  it('keeps the old configuration when the new one is wrong, and says so', async () => {
    const edge = await Edge.start({ routes: answers('old\n') })
    const wrong = await edge.reload({ routes: [{ host: '*', upstrem: 'x' }] })
    expect(wrong.msg).toBe('the configuration was not applied; the previous one stays in force')
    expect(wrong.err).toMatchObject({ code: 'ERR_FDB_CONFIG' })
    expect(wrong.err.message).toMatch(/edge\.json:\d+:\d+: routes\[0\]/)
    expect(await bodyAt(edge.port)).toBe('old\n')
    for (const changes of [{ service: 'other' }, { control: `${edge.sandbox.control}2` }, { workers: 2 }]) {
      const before = edge.config
      const refusal = await edge.reload({ ...changes, routes: answers('new\n') })
      expect(refusal.err).toMatchObject({ code: 'ERR_FDB_RELOAD' })
      edge.config = before
    }
    // A read of a FIFO would keep a thread, and with it all later reloads and the end of the process.
    rmSync(edge.file)
    execFileSync('mkfifo', [edge.file])
    expect(await edge.sandbox.run('reload', '--control', edge.sandbox.control)).toMatchObject({
      code: 1,
      stderr: `ERR_FDB_CONFIG: ${edge.file} cannot be read (it is not a regular file); give the path of a YAML or JSON file\n`,
    })
    rmSync(edge.file)
    expect(await bodyAt(edge.port)).toBe('old\n')
    expect((await edge.reload({ routes: answers('right\n') })).level).toBe(30)
    expect(await bodyAt(edge.port)).toBe('right\n')
  })

  it('changes no certificate when an address is taken, as often as it is tried', async () => {
    const edge = await Edge.prepare({ routes: answers('hello\n') })
    const [old, wrong] = [edge.issue('old', ['a.test']), edge.issue('wrong', ['a.test'])]
    edge.write(edge.secured([old]))
    const read = (changes: object) => configFrom({ ...edge.config, ...changes } as unknown as ProxyDocument)
    const proxy = await startProxy(read({}))
    onTestFinished(() => proxy.close({ timeout: 0 }))
    const taken = await freePort()
    const other = createServer().listen(taken, '127.0.0.1')
    onTestFinished(() => void other.close())
    await once(other, 'listening')
    const secured = edge.secured([wrong])
    const listeners = [
      ...(secured.listeners as object[]),
      { name: 'taken', address: `tcp://127.0.0.1:${taken}` },
    ]
    for (let n = 0; n < 2; n++) {
      await expect(proxy.reload(read({ ...secured, listeners }))).rejects.toMatchObject({
        code: 'ERR_FDB_ADDRESS_IN_USE',
      })
      for (const servername of ['a.test', '']) {
        const { certificate, socket } = await askTls(edge.port, servername === '' ? {} : { servername })
        socket.destroy()
        expect(certificate).toBe('old')
      }
    }
  })

  it('changes nothing when a program gives values that no proxy can have', async () => {
    const edge = await Edge.prepare({ routes: answers('old\n') })
    const read = (changes: object) => configFrom({ ...edge.config, ...changes } as unknown as ProxyDocument)
    const before = read({})
    const proxy = await startProxy(before)
    onTestFinished(() => proxy.close({ timeout: 0 }))
    const next = read({ routes: answers('new\n'), upstreams: { app: { servers: ['http://127.0.0.1:9'] } } })
    for (const impossible of [
      { timeouts: { ...next.timeouts, idle: 0 } },
      { limits: { ...next.limits, fields: Number.NaN } },
    ]) {
      await expect(proxy.reload({ ...next, ...impossible })).rejects.toMatchObject({
        code: expect.stringMatching(/^ERR_FDB_(?:RELAY_OPTION|HTTP1_LIMIT)$/),
      })
      expect(proxy.config).toBe(before)
    }
    expect(await bodyAt(edge.port)).toBe('old\n')
    await proxy.reload(next)
    expect(await bodyAt(edge.port)).toBe('new\n')
  })

  it('need not follow a handoff that fails: what a store has changed meanwhile applies by itself', async () => {
    const store = createHttpServer((_request, response) =>
      response.setHeader('etag', '1').end('{"limits/body":"1k"}'),
    )
    store.listen(0, '127.0.0.1')
    await once(store, 'listening')
    onTestFinished(() => void store.close().closeAllConnections())
    const { port } = store.address() as AddressInfo
    const edge = await Edge.prepare({ routes: answers('ok') })
    const source = `http://127.0.0.1:${port}/`
    const proxy = await startProxy(configFrom({ ...edge.config, source } as unknown as ProxyDocument))
    onTestFinished(() => proxy.close({ timeout: 0 }))
    await until('it has the limit', () => proxy.config.limits.body === 1_024)
    const phase = vi.spyOn(proxy.member, 'phase', 'get').mockReturnValue('frozen')
    onTestFinished(() => phase.mockRestore())
    await proxy.member.section('source').put('limits/body', JSON.parse('{ "json": "\\"2k\\"" }'))
    for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
    expect(proxy.config.limits.body).toBe(1_024)
    phase.mockRestore()
    await until('it has the new limit', () => proxy.config.limits.body === 2_048)
  })

  it('need not follow a handoff that fails, also if that begins while the change waits for another reload', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const member = { phase: 'serving' as 'serving' | 'frozen' }
    const tried: string[] = []
    const apply = async () => {
      tried.push(member.phase)
      if (tried.length > 1) return
      member.phase = 'frozen'
      throw new FdbError('ERR_FDB_FENCED', 'another process serves', { retryable: true })
    }
    const failed = (error: unknown) => {
      throw error
    }
    afterHandoff(member, apply, failed)()
    await vi.advanceTimersByTimeAsync(1_000)
    expect(tried).toEqual(['serving'])
    member.phase = 'serving'
    await vi.advanceTimersByTimeAsync(1_000)
    expect(tried).toEqual(['serving', 'serving'])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('says nothing of a change of the store that comes when its process has left', async () => {
    const told: unknown[] = []
    const failing = (code: 'ERR_FDB_STATE_CLOSED' | 'ERR_FDB_OPTION') => async () => {
      throw new FdbError(code, 'no')
    }
    for (const code of ['ERR_FDB_STATE_CLOSED', 'ERR_FDB_OPTION'] as const)
      afterHandoff({ phase: 'serving' }, failing(code), error => told.push(error))()
    await new Promise(resolve => setImmediate(resolve))
    expect(told).toMatchObject([{ code: 'ERR_FDB_OPTION' }])
  })

  it('leaves routes made at run time, also those whose upstream the new file does not have', async () => {
    const app = await upstream()
    const upstreams = { app: { servers: [app.url] }, spare: { servers: [app.url] } }
    const edge = await Edge.start({ upstreams, routes: answers('hello\n') })
    expect((await edge.routes('add', '--host', 'a.test', '--upstream', 'spare')).code).toBe(0)
    const get = () => ask(`${edge.url}/r/1`, { headers: { host: 'a.test' } }).answer
    expect(await get()).toMatchObject({ status: 200, body: '1 item-1\n' })
    await edge.reload({ upstreams: { app: { servers: [app.url] } }, routes: answers('new\n') })
    expect(await get()).toMatchObject({ status: 200, body: '1 item-1\n' })
    expect(await bodyAt(edge.port)).toBe('new\n')
    expect(
      await edge.logged(
        'routes made at run time lead to upstreams that only the state has, not the file; they are served',
      ),
    ).toMatchObject({ routes: ['a.test/'], count: 1, upstreams: ['spare'] })
    // Only as long as there is such a route.
    expect((await edge.routes('remove', '--host', 'a.test')).code).toBe(0)
    await edge.reload({})
    expect((await edge.routes('add', '--host', 'a.test', '--upstream', 'spare')).stderr).toContain(
      'there is no upstream "spare"',
    )
  })

  it('opens, moves and closes listeners; all stay as they are when an address is taken', async () => {
    const [one, two] = [await upstream('one'), await upstream('two')]
    const app = { upstreams: { app: { servers: [one.url] } } }
    const edge = await Edge.start({
      ...app,
      routes: [...answers('hello\n'), { host: 'app.test', upstream: 'app' }],
    })
    const [second, third, taken] = [await freePort(), await freePort(), await freePort()]
    const [fourth, fifth] = [await freePort(), await freePort()]
    const http = { name: 'http', address: `tcp://127.0.0.1:${edge.port}` }
    const on = (port: number) => ({ name: 'more', address: `tcp://127.0.0.1:${port}` })
    await edge.reload({ listeners: [http, on(second)] })
    expect([await bodyAt(edge.port), await bodyAt(second)]).toEqual(['hello\n', 'hello\n'])
    const kept = (await edge.raw(second)).send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await kept.until(text => text.endsWith('hello\n'))
    await edge.reload({ listeners: [http, on(third)] })
    expect(await bodyAt(third)).toBe('hello\n')
    await until('the address it moved from is closed', () => refused(second))
    kept.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(await kept.until(text => text.endsWith('hello\n'))).toMatch(/connection: close/i)
    const other = createServer().listen(taken, '127.0.0.1')
    onTestFinished(() => void other.close())
    const failed = await edge.reload({
      listeners: [
        http,
        on(fourth),
        { name: 'new', address: `tcp://127.0.0.1:${fifth}` },
        { name: 'taken', address: `tcp://127.0.0.1:${taken}` },
      ],
      upstreams: { app: { servers: [two.url] } },
      routes: answers('not this\n'),
    })
    expect(failed.err).toMatchObject({ code: 'ERR_FDB_ADDRESS_IN_USE' })
    const served = await ask(`${edge.url}/r/1`, { headers: { host: 'app.test' } }).answer
    expect(served.headers['x-upstream']).toBe('one')
    expect([await bodyAt(edge.port), await bodyAt(third)]).toEqual(['hello\n', 'hello\n'])
    await until('what was opened is closed', async () => (await refused(fourth)) && (await refused(fifth)))
    await edge.reload({ ...app, listeners: [on(third)], routes: answers('hello\n') })
    await until('the address that is named no more is closed', () => refused(edge.port))
    expect(await bodyAt(third)).toBe('hello\n')
    expect((await edge.status()).listeners.map(({ name }) => name)).toEqual(['more'])
    // Listeners that were opened at run time are handed over like the rest.
    const pid = await edge.next()
    expect((await ask(`http://127.0.0.1:${third}/`).answer).headers['x-pid']).toBe(String(pid))
  })

  it.runIf(NIGHTLY)('sets the options of a listener that have changed, as an upgrade does', async () => {
    const edge = await Edge.prepare({ routes: answers('hello\n') })
    const path = join(edge.sandbox.folder, 'open.sock')
    const listening = (options: string) => ({
      listeners: [
        ...(edge.config.listeners as object[]).slice(0, 1),
        { name: 'open', address: `unix:${path}${options}` },
      ],
    })
    const mode = () => statSync(path).mode & 0o777
    edge.write(listening('?mode=0666'))
    await edge.next()
    expect(mode()).toBe(0o666)
    expect(await edge.reload(listening('?mode=0600&backlog=100'))).toMatchObject({ level: 30 })
    expect(mode()).toBe(0o600)
    expect(await edge.logged('options of a listener were changed')).toMatchObject({
      listener: 'open',
      changes: [
        { option: 'backlog', applied: true },
        { option: 'mode', applied: true },
      ],
    })
    // A rollback returns to the options in force, not to those of the start.
    const old = await edge.pid
    edge.write(listening('?mode=0640'))
    await edge.next()
    expect(mode()).toBe(0o640)
    expect((await edge.sandbox.run('rollback', '--control', edge.sandbox.control)).code).toBe(0)
    expect(await edge.pid).toBe(old)
    await until('the options are those of the version that serves again', () => mode() === 0o600)
  })

  it('also holds in a next version that has read the file before, and serves after it', async () => {
    const edge = await Edge.prepare({ routes: answers('old\n') })
    const gate = join(edge.sandbox.folder, 'gate')
    edge.write({ upgrade: { health: { command: `test -e ${gate}` } } })
    await edge.next()
    const next = edge.next()
    await until('the next version has read the file, and is checked', async () => {
      return (await edge.status()).phase === 'offering'
    })
    expect(await edge.reload({ routes: answers('new\n') })).toMatchObject({ level: 30 })
    expect(await bodyAt(edge.port)).toBe('new\n')
    writeFileSync(gate, '')
    const pid = await next
    await edge.logged('the next version has read its configuration again too')
    expect((await ask(edge.url).answer).headers['x-pid']).toBe(String(pid))
    expect(await bodyAt(edge.port)).toBe('new\n')
  })

  it('reaches the version that serves through the one that stands by', async () => {
    const edge = await Edge.start({ routes: answers('old\n') })
    const old = await edge.pid
    const pid = await edge.next()
    edge.write({ routes: answers('new\n') })
    await edge.signal('SIGHUP', old)
    await edge.logged('the configuration was read again', line => line.pid === old)
    const answer = await ask(edge.url).answer
    expect(answer).toMatchObject({ body: 'new\n', headers: { 'x-pid': String(pid) } })
  })

  it.runIf(NIGHTLY)('reads a large file without stopping the requests meanwhile', async () => {
    const edge = await Edge.start({ routes: answers('hello\n') })
    let stopped = false
    const gaps: number[] = []
    const pid = await edge.pid
    const asking = (async () => {
      const raw = await edge.raw()
      while (!stopped) {
        const worked = workOf(pid)
        await new Promise<void>(resolve => {
          raw.socket.once('data', () => resolve())
          raw.send('GET /x HTTP/1.1\r\nHost: a\r\n\r\n')
        })
        gaps.push(worked())
      }
    })()
    const many = Array.from({ length: 20_000 }, (_, n) => ({
      host: `h${n}.test`,
      respond: { body: `${n}\n` },
    }))
    expect((await edge.reload({ routes: [...many, ...answers('hello\n')] })).level).toBe(30)
    stopped = true
    await asking
    const last = await ask(edge.url, { headers: { host: 'h19999.test' } }).answer
    expect(last.body).toBe('19999\n')
    // To read it here would take a second.
    expect(gaps.reduce((most, gap) => Math.max(most, gap))).toBeLessThan(500)
  })
})
