import { writeFileSync } from 'node:fs'
import http2 from 'node:http2'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import type { ListedRoute } from '../../src/proxy/routes/live-routes.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'

async function start(): Promise<Edge> {
  const app = await upstream()
  return Edge.start({
    upstreams: { app: { servers: [app.url] }, spare: { servers: [app.url] } },
    routes: [
      { host: '*', upstream: 'app' },
      { host: 'own.test', respond: { body: 'of the file\n' } },
    ],
  })
}

async function listed(edge: Edge): Promise<ListedRoute[]> {
  const { stdout, stderr, code } = await edge.routes('list', '--json')
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return JSON.parse(stdout) as ListedRoute[]
}

const bodyOf = async (edge: Edge, host: string, path = '/') =>
  (await ask(`${edge.url}${path}`, { headers: { host } }).answer).body

function file(edge: Edge, name: string, text: string): string {
  const path = join(edge.sandbox.folder, name)
  writeFileSync(path, text)
  return path
}

describe('fd-broker routes', () => {
  it('adds a route, lists it with its origin, and removes it', async () => {
    const edge = await start()
    expect(
      await edge.routes('add', '--host', 'New.Test', '--path', '/r/', '--upstream', 'spare'),
    ).toMatchObject({
      code: 0,
      stdout: '1 added\n',
    })
    const routes = await listed(edge)
    expect(routes).toHaveLength(3)
    expect(routes.find(({ origin }) => origin === 'runtime')).toMatchObject({
      host: 'new.test',
      path: '/r',
      shadowed: false,
      target: { kind: 'upstream', upstream: 'spare', connect: false },
      generation: 1,
    })
    const { stdout } = await edge.routes('list')
    expect(stdout).toMatch(/^HOST +PATH +ORIGIN +TARGET +GENERATION\n/)
    expect(stdout).toMatch(/new\.test +\/r +runtime +spare +1\n/)
    expect((await edge.routes('remove', '--host', 'new.test', '--path', '/r', '--json')).stdout).toBe(
      `${JSON.stringify({ removed: 1, uncovers: [], uncovered: 0 }, null, 2)}\n`,
    )
    expect(await listed(edge)).toHaveLength(2)
  })

  it('names routes of the file that are out of force, and that are in force again', async () => {
    const edge = await start()
    const added = await edge.routes('add', '--host', 'own.test', '--upstream', 'app')
    expect(added.stdout).toBe('1 added\nused instead of routes of the file: own.test/\n')
    expect(await bodyOf(edge, 'own.test', '/r/1')).toBe('1 item-1\n')
    expect((await edge.routes('list')).stdout).toContain('file (not used)')
    // A new version with the same file, and a reload, leave it in force, and say so.
    await edge.next()
    const warning = (generation: string) =>
      edge.logged(
        'routes made at run time override routes of the file (to remove them: fd-broker routes remove)',
        line => String(line.pid) === generation,
      )
    const pid = await edge.pid
    expect(await warning(String(pid))).toMatchObject({ routes: ['own.test/'], count: 1 })
    expect(await bodyOf(edge, 'own.test', '/r/1')).toBe('1 item-1\n')
    const removed = await edge.routes('remove', '--host', 'own.test')
    expect(removed.stdout).toBe('1 removed\nthe file’s are used again: own.test/\n')
    expect(await bodyOf(edge, 'own.test', '/r/1')).toBe('of the file\n')
  })

  const KINDS: [kind: string, write: (routes: object[]) => string][] = [
    ['JSON lines', (routes: object[]) => routes.map(route => JSON.stringify(route)).join('\n')],
    [
      'a configuration',
      (routes: object[]) => `routes:\n${routes.map(each => `  - ${JSON.stringify(each)}\n`).join('')}`,
    ],
    ['JSON', (routes: object[]) => JSON.stringify(routes)],
    ['YAML', (routes: object[]) => routes.map(route => `- ${JSON.stringify(route)}\n`).join('')],
  ]
  it.each(KINDS.slice(0, perLane(2, KINDS.length)))('takes many from a file: %s', async (_kind, write) => {
    const edge = await start()
    const routes = Array.from({ length: 50 }, (_, n) => ({ host: `h${n}.test`, respond: { body: `${n}\n` } }))
    const path = file(edge, 'routes', write(routes))
    expect(await edge.routes('add', '--file', path)).toMatchObject({ code: 0, stdout: '50 added\n' })
    expect(await bodyOf(edge, 'h49.test')).toBe('49\n')
    expect((await edge.routes('add', '--file', path)).stdout).toBe('0 added, 50 exist already\n')
    expect((await edge.routes('remove', '--file', path)).stdout).toBe('50 removed\n')
    expect(await bodyOf(edge, 'h49.test')).not.toBe('49\n')
  })

  it('changes all of a file or nothing, and names what is wrong', async () => {
    const edge = await start()
    await edge.routes('add', '--host', 'there.test', '--upstream', 'app')
    const path = file(
      edge,
      'wrong.yaml',
      `- { host: good.test, upstream: app }
- { host: good.test, path: /x, upstream: nowhere }
- { host: "b d", upstream: app }
- { host: there.test, upstream: spare }
`,
    )
    const { code, stderr, stdout } = await edge.routes('add', '--file', path)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr.split('\n')[0]).toBe('ERR_FDB_ROUTES: no route was changed:')
    expect(stderr).toMatch(/^routes\[1\]\.upstream: there is no upstream "nowhere"/m)
    expect(stderr).toMatch(/routes\[2\]\.host: "b d" is not a host/)
    expect(stderr).toMatch(/routes\[3\]: there\.test\/ was made at run time before, with another target/)
    expect(await listed(edge)).toHaveLength(3)
    const replaced = file(edge, 'right.yaml', '- { host: there.test, upstream: spare }\n')
    expect((await edge.routes('add', '--replace', '--file', replaced)).stdout).toBe('0 added, 1 replaced\n')
    const twice = await edge.routes('remove', '--host', 'own.test')
    expect(twice).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('comes from the configuration file'),
    })
  })

  it.runIf(NIGHTLY)('says what is wrong with the question', async () => {
    const edge = await start()
    expect(await edge.routes('add', '--host', 'a.test')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('ERR_FDB_OPTION: which routes? Give --host and --upstream, or --file'),
    })
    const missing = await edge.routes('add', '--file', join(edge.sandbox.folder, 'none'))
    expect(missing.stderr).toMatch(/ERR_FDB_ROUTES: .*none cannot be read/)
    const bad = file(edge, 'bad.jsonl', '{"host":"a.test","upstream":"spare"}\n{"host":"b.test",}x\n')
    expect((await edge.routes('add', '--file', bad)).stderr).toMatch(
      /^ERR_FDB_ROUTES: \S+bad\.jsonl:2:1: .*\w$/m,
    )
    const odd = file(edge, 'odd.yaml', 'a: b\n  - c: [\n')
    expect((await edge.routes('add', '--file', odd)).stderr).toMatch(/ERR_FDB_ROUTES: .*odd\.yaml:\d+:\d+: /)
    expect((await edge.routes('add', '--file', file(edge, 'map.yaml', 'a: b\n'))).stderr).toContain(
      'is not a list of routes',
    )
  })

  it.runIf(NIGHTLY)('lists very many, whole, over several pages', async () => {
    const edge = await start()
    const count = 60_000
    const lines = Array.from({ length: count }, (_, n) =>
      JSON.stringify({ host: `h${n}.test`, upstream: 'app' }),
    )
    expect((await edge.routes('add', '--file', file(edge, 'many.jsonl', lines.join('\n')))).code).toBe(0)
    const routes = await listed(edge)
    expect(new Set(routes.map(({ host }) => host)).size).toBe(count + 2)
  })
})

describe('the conditions of a route', () => {
  const answers = (body: string) => ({ respond: { body } })

  it('hold for HTTP/1 and HTTP/2, over an upgrade, for routes made at run time, and change at a reload', async () => {
    const routes = [
      { host: '*', ...answers('any') },
      { host: '*', when: ['method=PUT|POST', 'header:X-Version=2.*'], ...answers('beta') },
      { host: '*', when: ['cookie:canary=1'], ...answers('canary') },
      { host: '*', path: '/u/*/o', when: ['!method=GET', '!header:x-old'], ...answers('written') },
      { host: '*', path: '/u', when: ['path=*.php', 'address=127.0.0.0/8'], ...answers('script') },
      { host: '*', path: '/u', when: ['path=*.php', '!address=::1'], ...answers('foreign') },
    ]
    const edge = await Edge.prepare({ upgrade: { probation: '0s' }, routes })
    edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }] })
    await edge.next()
    const given = ['--host', '*', '--when', 'query:a=b', '--when', 'header:x-a']
    const route = file(edge, 'made.json', JSON.stringify([{ ...routes[0], when: [given[5], given[3]] }]))
    expect((await edge.routes('add', '--file', route)).stdout).toBe('1 added\n')
    const both = async (method: string, path: string, headers: Record<string, string>) => {
      const { body } = await ask(`${edge.url}${path}`, { method, headers }).answer
      const session = http2.connect(edge.url)
      const stream = session.request({ ':method': method, ':path': path, ...headers }, { endStream: true })
      const bodies = [body, await text(stream)]
      session.close()
      return bodies
    }
    const found = async (second: string) => {
      expect(await both('POST', '/', { 'x-version': '2.1' })).toEqual([second, second])
      expect(await both('GET', '/', { 'x-version': '2.1' })).toEqual(['any', 'any'])
      expect(await both('GET', '/', { cookie: 'a=b; canary=1' })).toEqual(['canary', 'canary'])
      expect(await both('PUT', '/u//%37/o/x?a=b', {})).toEqual(['written', 'written'])
      expect(await both('PUT', '/u/7/o', { 'x-old': '1' })).toEqual(['any', 'any'])
      expect(await both('GET', '/u/7/o', {})).toEqual(['any', 'any'])
      expect(await both('GET', '/u/7.ph%70?a', {})).toEqual(['script', 'script'])
    }
    await found('beta')
    await edge.next()
    await found('beta')
    expect((await edge.routes('list')).stdout).toMatch(
      /\n\* +\/ header:x-a query:a=b +runtime +respond 200 +1\n/,
    )
    expect((await edge.routes('remove', ...given)).stdout).toBe('1 removed\n')
    await edge.reload({
      routes: [...routes.slice(0, 1), { ...routes[1], ...answers('gamma') }, ...routes.slice(2)],
    })
    await found('gamma')
  })
})

describe('fd-broker proxy --check', () => {
  it('tells whether a configuration is valid, and changes nothing', async () => {
    const edge = await Edge.prepare({ routes: [{ host: '*', respond: { body: 'x' } }] })
    const check = () => edge.sandbox.run('proxy', '--check', '--config', edge.file)
    expect(await check()).toEqual({
      code: 0,
      stdout: `${edge.file} is valid: 1 listener, 0 upstreams, 1 route\n`,
      stderr: '',
    })
    edge.write({ routes: [{ host: '*', upstream: 'nowhere' }], drain: { timeout: 5 } })
    const wrong = await check()
    expect(wrong).toMatchObject({ code: 1, stdout: '' })
    expect(wrong.stderr).toMatch(/ERR_FDB_CONFIG: .*edge\.json:\d+:\d+: routes\[0\]\.upstream: /)
    expect(wrong.stderr).toMatch(/edge\.json:\d+:\d+: drain\.timeout: /)
    expect(await edge.sandbox.run('proxy', '--check', '--config', '/nowhere.yaml')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('ERR_FDB_CONFIG: /nowhere.yaml cannot be read'),
    })
    expect(await edge.sandbox.run('proxy')).toMatchObject({ code: 2 })
  })
})
