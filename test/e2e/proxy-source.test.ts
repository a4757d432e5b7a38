import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { EtcdSource, type SourceStatus } from '../../src/sources/index.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { CountingClients } from '../processes/counting-clients.js'
import { type Config, Edge, upstream } from '../processes/edge.js'
import { Etcd } from '../processes/etcd.js'
import { signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const PREFIX = '/edge/'
const SWITCHES = perLane(30, 200)
const respond = (body: string) => JSON.stringify({ respond: { body } })

/** The answer of the proxy to a request for a host. */
async function answerOf(edge: Edge, host: string, path = '/'): Promise<string> {
  const { status, body } = await ask(`${edge.url}${path}`, { headers: { host } }).answer
  return status === 200 ? body : `${status}`
}

function answers(edge: Edge, host: string, body: string, path = '/'): Promise<unknown> {
  return until(
    `${host}${path} answers ${body}`,
    async () => (await answerOf(edge, host, path)) === body,
    20_000,
  )
}

async function sourceOf(
  edge: Edge,
  what: string,
  holds: (source: SourceStatus) => boolean,
): Promise<SourceStatus> {
  return await until(
    what,
    async () => {
      const source = (await edge.status()).details?.source as SourceStatus | undefined
      return source !== undefined && holds(source) ? source : undefined
    },
    20_000,
    async () => JSON.stringify((await edge.status()).details?.source),
  )
}

/** A proxy that follows a real etcd; not started yet. */
async function following(changes: Config = {}) {
  const edge = await Edge.prepare({ upgrade: { probation: '0s' }, ...changes })
  const etcd = await Etcd.start(edge.sandbox)
  edge.write({ source: `etcd://127.0.0.1:${etcd.port}${PREFIX}` })
  const put = (key: string, value: string) => etcd.put(`${PREFIX}${key}`, value)
  return { edge, etcd, put }
}

describe.skipIf(!has('etcd'))('a proxy that follows etcd', () => {
  it('has its routes and upstreams at once, in each next version, and after kill -9', async () => {
    const { edge, etcd, put } = await following()
    edge.write({ stateFile: edge.sandbox.file('state') })
    const app = await upstream('first')
    await put('routes/one.example/', respond('one'))
    await put('routes/app.example/', '{"upstream":"app"}')
    await put('upstreams/app', JSON.stringify({ servers: [app.url] }))
    await edge.next()
    expect(await answerOf(edge, 'one.example')).toBe('one')
    const server = async () =>
      (await ask(`${edge.url}/r/1`, { headers: { host: 'app.example' } }).answer).headers['x-upstream']
    const first = await server()
    const second = await upstream('second')
    await put('upstreams/app', JSON.stringify({ servers: [second.url] }))
    await until('the other server answers', async () => (await server()) !== first, 20_000)
    await put('routes/one.example/', respond('changed'))
    await answers(edge, 'one.example', 'changed')
    const pid = await edge.next()
    expect(await answerOf(edge, 'one.example')).toBe('changed')
    await etcd.delete(`${PREFIX}routes/one.example/`)
    await answers(edge, 'one.example', '404')
    const { revision } = await sourceOf(edge, 'the last revision', ({ applied }) => applied > 0)
    await edge.stateWritten()
    signalPid(pid, 'SIGKILL')
    await edge.ended(pid)
    await put('routes/two.example/', respond('two'))
    await edge.next()
    await answers(edge, 'two.example', 'two')
    const after = await sourceOf(edge, 'the change', ({ applied }) => applied === 1)
    expect(Number.parseInt(after.revision!, 10)).toBe(Number.parseInt(revision!, 10) + 1)
    expect(await server()).not.toBe(first)
  })

  it('overrides the file, and is overridden by commands', async () => {
    const { edge, etcd, put } = await following({
      routes: [{ host: 'x.example', respond: { body: 'file' } }],
    })
    await put('routes/x.example/', respond('source'))
    await edge.next()
    expect(await answerOf(edge, 'x.example')).toBe('source')
    const listed = async () => JSON.parse((await edge.routes('list', '--json')).stdout) as object[]
    expect(await listed()).toMatchObject([
      { origin: 'file', shadowed: true },
      { origin: 'source', shadowed: false },
    ])
    writeFileSync(
      edge.sandbox.file('more'),
      JSON.stringify([{ host: 'x.example', respond: { body: 'runtime' } }]),
    )
    expect((await edge.routes('add', '--file', edge.sandbox.file('more'))).stderr).toBe('')
    expect(await answerOf(edge, 'x.example')).toBe('runtime')
    await put('routes/x.example/', respond('again'))
    await edge.next()
    expect(await answerOf(edge, 'x.example')).toBe('runtime')
    await edge.routes('remove', '--host', 'x.example')
    await answers(edge, 'x.example', 'again')
    const { stderr } = await edge.routes('remove', '--host', 'x.example')
    expect(stderr).toContain('x.example/ comes from the source: change it in the store')
    await etcd.delete(`${PREFIX}routes/x.example/`)
    await answers(edge, 'x.example', 'file')
  })

  it.each(perLane([1], [1, 2]))(
    'switches a route to a new upstream in one change, and no request fails: %i workers',
    async workers => {
      const { edge, etcd } = await following({
        ...(workers > 1 && { workers }),
        routes: [{ host: '*', path: '/gone', respond: { status: 410 } }],
      })
      const app = await upstream()
      const switchTo = (n: number) =>
        etcd.putAll([
          [`${PREFIX}upstreams/app-${n}`, JSON.stringify({ servers: [app.url] })],
          [`${PREFIX}routes/*/`, `{"upstream":"app-${n}"}`],
        ])
      await switchTo(0)
      await edge.launch()
      await edge.logged(workers > 1 ? 'the workers serve' : 'the proxy serves')
      const clients = new CountingClients(edge.url, null)
      await until('each process has answered', () => clients.pids.size === workers, 20_000)
      for (let n = 1; n <= SWITCHES; n++) {
        await switchTo(n)
        const before = clients.answers
        await until('clients are answered', () => clients.answers > before + 10, 20_000)
      }
      await clients.stop()
      expect(clients.answers).toBeGreaterThan(10 * SWITCHES)
    },
  )

  it.runIf(NIGHTLY)('has the changes of a probation after a rollback', async () => {
    const { edge, put } = await following({ upgrade: { probation: '60s' } })
    const [first, second] = [await upstream('first'), await upstream('second')]
    await put('routes/app.example/', '{"upstream":"app"}')
    await put('upstreams/app', JSON.stringify({ servers: [first.url] }))
    await edge.next()
    await edge.next()
    await put('upstreams/app', JSON.stringify({ servers: [second.url] }))
    await put('routes/one.example/', respond('one'))
    await answers(edge, 'one.example', 'one')
    const { code } = await edge.sandbox.run('rollback', '--control', edge.sandbox.control)
    expect(code).toBe(0)
    expect(await answerOf(edge, 'one.example')).toBe('one')
    const server = async () =>
      (await ask(`${edge.url}/r/1`, { headers: { host: 'app.example' } }).answer).headers['x-upstream']
    expect(await server()).toBe('second')
  })

  it('refuses bad entries by name in status and metrics, and uses the others', async () => {
    const port = await freePort()
    const { edge, put } = await following({ metrics: `tcp://127.0.0.1:${port}` })
    const { cert, key } = edge.issue('store', ['store.example'])
    const bad = {
      'routes/bad.example/': '{"respond":{"status":42}}',
      'routes/BAD.example/': respond('x'),
      'routes/path.example': respond('x'),
      'routes/host.example/': '{"host":"other.example","respond":{}}',
      'upstreams/bad': '{"servers":[]}',
      'limits/bodies': '"1k"',
      'certificates/half': '{"cert":"x","key":"y"}',
      nothing: 'no JSON',
    }
    for (const [name, value] of Object.entries(bad)) await put(name, value)
    await put('limits/body', '"1k"')
    await put('routes/good.example/', respond('good'))
    const pem = { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
    await put('certificates/store', JSON.stringify(pem))
    await edge.next()
    const { refused, refusedCount } = await sourceOf(edge, 'the refusals', () => true)
    expect(refusedCount).toBe(Object.keys(bad).length)
    expect(refused).toMatchObject({
      'routes/bad.example/': expect.stringContaining('respond.status'),
      'routes/BAD.example/': expect.stringContaining('write routes/bad.example/'),
      'routes/path.example': expect.stringContaining('write routes/HOST/PATH'),
      'routes/host.example/': expect.stringContaining('"host" is in the key'),
      'upstreams/bad': expect.stringContaining('servers'),
      'limits/bodies': expect.stringContaining('body'),
      'certificates/half': expect.stringContaining('PEM'),
    })
    expect(await answerOf(edge, 'good.example')).toBe('good')
    const large = ask(`${edge.url}/`, {
      method: 'POST',
      body: 'x'.repeat(2_000),
      headers: { host: 'good.example' },
    })
    expect((await large.answer).status).toBe(413)
    const listed = await edge.sandbox.run('certificates', 'list', '--control', edge.sandbox.control)
    expect(listed.stdout).toContain('store.example')
    const { body } = await ask(`http://127.0.0.1:${port}/metrics`).answer
    const sample = (name: string) => sumOf(samplesOf(body), `fdbroker_proxy_source_${name}`)
    expect(sample('refused_entries')).toBe(refusedCount)
    expect(sample('revision')).toBeGreaterThan(1)
    expect(sample('failing_seconds')).toBe(0)
    const { stdout } = await edge.sandbox.run('status', '--control', edge.sandbox.control)
    expect(stdout).toMatch(/^ {2}limits\/bodies +.*body/m)
    expect(stdout).toMatch(/^ +etcd \/edge\/ +\d+@\d+ +8 +-$/m)
  })

  it('serves on without the store, and does not begin to serve without it', async () => {
    const { edge, etcd, put } = await following({ upgrade: { probation: '0s', timeout: '3s' } })
    await put('routes/one.example/', respond('one'))
    await etcd.stop()
    await edge.launch()
    const refusal = /etcd \/edge\/ could not be read within 3000 ms.*ECONNREFUSED/
    await until('the refusal', () => refusal.test(edge.sandbox.output), 20_000)
    await etcd.start()
    await edge.next()
    await etcd.stop()
    await sourceOf(edge, 'the failure', ({ failure }) => failure !== null)
    await edge.next()
    expect(await answerOf(edge, 'one.example')).toBe('one')
    await etcd.start()
    await put('routes/one.example/', respond('two'))
    await answers(edge, 'one.example', 'two')
  })

  it('reads the store in one worker for all', async () => {
    const { edge, put } = await following({ workers: 2 })
    await put('routes/one.example/', respond('one'))
    await edge.launch()
    await edge.logged('the workers serve')
    const pids = new Set<unknown>()
    const asked = async (body: string) => {
      const answer = await ask(edge.url, { headers: { host: 'one.example' } }).answer
      pids.add(answer.headers['x-pid'])
      return answer.body === body
    }
    await until('each worker answers', async () => (await asked('one')) && pids.size === 2, 20_000)
    await put('routes/one.example/', respond('two'))
    pids.clear()
    await until(
      'each worker has the change',
      async () => {
        if (!(await asked('two'))) pids.clear()
        return pids.size === 2
      },
      20_000,
    )
  })

  it.runIf(NIGHTLY)('takes the next host, TLS and a user from the file', async () => {
    const edge = await Edge.prepare({})
    const certificate = edge.issue('etcd', ['localhost'])
    const etcd = await Etcd.start(edge.sandbox, certificate)
    await etcd.put(`${PREFIX}routes/one.example/`, respond('one'))
    await etcd.requirePassword('secret')
    const passwordFile = edge.sandbox.file('password')
    writeFileSync(passwordFile, 'secret\n')
    const url = `etcds://127.0.0.1:1,localhost:${etcd.port}${PREFIX}`
    edge.write({ source: { url, user: 'root', passwordFile, ca: certificate.cert } })
    await edge.next()
    expect(await answerOf(edge, 'one.example')).toBe('one')
    await etcd.put(`${PREFIX}routes/one.example/`, respond('two'))
    await answers(edge, 'one.example', 'two')
  })
})

describe.skipIf(!has('etcd'))('routes diff and apply', () => {
  it.runIf(NIGHTLY)('give a store the routes of a file at once, unless it has moved on', async () => {
    const { edge, etcd, put } = await following()
    await put('routes/kept.example/', '{ "respond" : { "body":"kept" } }')
    await put('routes/gone.example/', respond('gone'))
    await put('routes/web@x.example/a', respond('old'))
    await put('limits/body', '"1m"')
    await edge.next()
    const file = edge.sandbox.file('routes.yaml')
    const text = (body: string) =>
      `- { host: kept.example, respond: { body: kept } }
- { host: New.Example, respond: { body: ${body} } }
- { host: x.example, path: /a, listener: web, respond: { body: new } }
- { host: x.example, when: ['query:q=a/b', method=GET], respond: { body: chosen } }
`
    writeFileSync(file, text('new'))
    const to = ['--to', `etcd://127.0.0.1:1,127.0.0.1:${etcd.port}${PREFIX}`, '--file', file]
    const routes = (...args: string[]) => edge.sandbox.run('routes', ...args)
    const { stdout, stderr } = await routes('diff', ...to)
    expect(stderr).toBe('')
    const changes =
      '- gone.example/\n+ new.example/\n~ web@x.example/a\n+ x.example/?method=GET&query:q=a%2Fb\n4 changes; '
    const [, digest = ''] = /the store has ([0-9a-f]{12})\n$/.exec(stdout) ?? []
    expect(stdout).toBe(`${changes}the store has ${digest}\n`)
    await put('routes/other.example/', respond('other'))
    const refused = await routes('apply', ...to, '--expect', digest)
    expect(refused).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringContaining('the store has moved on'),
    })
    expect(await answerOf(edge, 'gone.example')).toBe('gone')
    await etcd.delete(`${PREFIX}routes/other.example/`)
    expect(await routes('apply', ...to, '--expect', digest)).toMatchObject({
      code: 0,
      stdout: `${changes}applied\n`,
    })
    await answers(edge, 'new.example', 'new')
    expect(await answerOf(edge, 'x.example', '/?q=a%2Fb')).toBe('chosen')
    expect(await answerOf(edge, 'gone.example')).toBe('404')
    expect(await answerOf(edge, 'kept.example')).toBe('kept')
    writeFileSync(file, text('newer'))
    const again = await routes('apply', '--config', edge.file, '--file', file, '--json')
    expect(JSON.parse(again.stdout)).toEqual({ changes: [{ sign: '~', key: 'new.example/' }] })
    await answers(edge, 'new.example', 'newer')
    expect((await routes('diff', ...to)).stdout).toMatch(/^no differences; /)
    writeFileSync(file, '- { host: bad.example, respond: { status: 42 } }')
    expect((await routes('apply', ...to)).stderr).toContain(`ERR_FDB_CONFIG: ${file}: [0].respond.status: `)
    const http = await routes('apply', '--to', 'http://127.0.0.1:1/', '--file', file)
    expect(http.stderr).toContain('only etcd can')
    expect((await routes('apply', '--file', file)).stderr).toContain('which store?')
    writeFileSync(
      file,
      JSON.stringify(Array.from({ length: 130 }, (_, n) => ({ host: `h${n}.example`, respond: {} }))),
    )
    const { stderr: many } = await routes('apply', ...to)
    expect(many).toMatch(/134 changes, .* at most 127, .*--max-txn-ops=135/)
  })

  it('change nothing that another client has changed between the look and the transaction', async () => {
    const { etcd, put } = await following()
    await put('routes/a/', '1')
    await put('routes/b/', '2')
    const store = new EtcdSource({ hosts: [etcd.url], prefix: `${PREFIX}routes/` })
    const { signal } = new AbortController()
    const change = [{ key: 'a/', value: Buffer.from('9') }]
    const before = await store.contents(signal)
    await put('routes/b/', '3')
    const code = 'ERR_FDB_SOURCE'
    const late = { revision: before.revision, count: 2 }
    await expect(store.change(change, late, signal)).rejects.toMatchObject({
      code,
      message: expect.stringContaining('nothing was changed'),
    })
    const now = await store.contents(signal)
    expect(now.all.map(({ value }) => String(value))).toEqual(['1', '3'])
    await etcd.delete(`${PREFIX}routes/b/`)
    const removed = { revision: now.revision, count: 2 }
    await expect(store.change(change, removed, signal)).rejects.toMatchObject({
      code,
      message: expect.stringContaining('was removed'),
    })
    await store.change([{ key: 'a/', value: null }], { ...(await store.contents(signal)), count: 0 }, signal)
    expect((await store.contents(signal)).all).toEqual([])
  })
})

describe('a proxy that follows an HTTP server', () => {
  it.runIf(NIGHTLY)(
    'has its routes, also with --source in place of the file, and keeps them while it fails',
    async () => {
      let contents: object | null = { 'routes/one.example/': { respond: { body: 'one' } } }
      const server = createServer((_, response) => {
        if (contents === null) response.writeHead(500).end()
        else response.end(JSON.stringify(contents))
      })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      onTestFinished(() => void server.close().closeAllConnections())
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/edge`
      const edge = await Edge.prepare({ source: 'etcd://127.0.0.1:1/nothing' })
      const first = await edge.launch(undefined, '--source', url)
      await edge.serving(first)
      expect(await answerOf(edge, 'one.example')).toBe('one')
      contents = null
      await sourceOf(edge, 'the failure', ({ failure }) => failure !== null)
      expect(await answerOf(edge, 'one.example')).toBe('one')
      const second = await edge.launch(undefined, '--source', url)
      await edge.serving(second)
      contents = { 'routes/two.example/': { respond: { body: 'two' } } }
      await answers(edge, 'two.example', 'two')
      expect(await answerOf(edge, 'one.example')).toBe('404')
    },
  )
})
