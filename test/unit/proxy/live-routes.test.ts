import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { LiveRoutes } from '../../../src/proxy/routes/live-routes.js'
import type { FileRoutes } from '../../../src/proxy/routes/reconcile.js'
import { ROUTES, routeMessage, routesSection } from '../../../src/proxy/routes/section.js'
import { NO_ROUTE } from '../../../src/proxy/routes/table.js'
import type { RouteTarget } from '../../../src/proxy/routes/target.js'
import { writingLog } from '../../fixtures/state-logs.js'

const STAMP = { generation: 1, created: 0 }
const SILENT = { debug() {}, info() {}, warn() {}, error() {} }
const noFacts = () => {
  throw new Error('no header has variables')
}
const answer = (body: string): RouteTarget => ({ kind: 'respond', status: 200, body, headers: [] })
const fileOf = (routes: Record<string, string>): FileRoutes => ({
  routes: Object.entries(routes).map(([host, body]) => ({ host, path: '/', target: answer(body) })),
  upstreams: new Set(),
  former: new Set(),
})

/** Routes over a section of which each read is noted, and may be when something else happens. `before`: what it has. */
async function scene(before: Record<string, string> = {}) {
  const { log } = writingLog()
  const section = log.section(ROUTES, routesSection)
  const write = (key: string, body: string) => section.put(key, routeMessage(answer(body), STAMP))
  for (const [key, body] of Object.entries(before)) await write(key, body)
  const read: string[] = []
  const scene = { onRead: (_key: string) => {} }
  const get = section.get.bind(section)
  vi.spyOn(section, 'get').mockImplementation(key => {
    read.push(key)
    scene.onRead(key)
    return get(key)
  })
  const routes = new LiveRoutes({
    section,
    generation: 2,
    serves: () => true,
    compile: target => ({
      kind: 'respond',
      guard: null,
      authorization: undefined,
      cors: null,
      limiter: null,
      unlogged: false,
      to: () => ({ kind: 'respond', status: 200, body: 'body' in target ? target.body : '' }),
    }),
    logger: SILENT,
  })
  onTestFinished(() => {
    routes.stop()
    log.close()
  })
  const found = (host: string) => {
    const action = routes.table.lookup(host, '/')
    if (typeof action === 'symbol') return action
    return action.kind === 'respond' ? action.to(noFacts).body : ''
  }
  return { section, routes, found, write, read, scene }
}

describe('the routes of a successor', () => {
  it('come from its file and from the run time, each read once', async () => {
    const { section, routes, found, read } = await scene({
      'file:same/': 'one',
      'file:changed/': 'before',
      'file:gone/': 'before',
      'runtime:own/': 'by hand',
      'runtime:same/': 'by hand',
    })
    const file = fileOf({ same: 'one', changed: 'after', fresh: 'new' })
    await routes.prepare(file)
    const all = () => ['same', 'changed', 'fresh', 'own', 'gone'].map(found)
    expect(all()).toEqual(['by hand', 'after', 'new', 'by hand', NO_ROUTE])
    const once = read.splice(0)
    expect(once.length).toBe(new Set(once).size)

    const { puts, deletes, conflicts } = await routes.apply(file)
    expect(puts.map(({ key }) => key)).toEqual(['file:changed/', 'file:fresh/'])
    expect([deletes, conflicts]).toEqual([['file:gone/'], ['same/']])
    // Only routes that it has written itself.
    expect(new Set(read)).toEqual(new Set(['file:changed/', 'file:fresh/', 'file:gone/']))
    expect(all()).toEqual(['by hand', 'after', 'new', 'by hand', NO_ROUTE])
    expect([...section.keys()].sort()).toEqual([
      'file:changed/',
      'file:fresh/',
      'file:same/',
      'runtime:own/',
      'runtime:same/',
    ])
  })

  it('get a second look when the state changes between preparing and writing', async () => {
    const { section, routes, found, write } = await scene({ 'file:a/': 'one' })
    const file = fileOf({ a: 'one' })
    await routes.prepare(file)
    await section.delete('file:a/')
    await write('runtime:b/', 'by hand')
    const { puts } = await routes.apply(file)
    expect(puts.map(({ key }) => key)).toEqual(['file:a/'])
    expect(['a', 'b'].map(found)).toEqual(['one', 'by hand'])
  })

  it('come from the file that is written, also if another was prepared', async () => {
    const { routes, found } = await scene()
    await routes.prepare(fileOf({ a: 'one' }))
    await routes.apply(fileOf({ a: 'two', b: 'two' }))
    expect(['a', 'b'].map(found)).toEqual(['two', 'two'])
  })

  it('come from its file whatever another process changes while they are prepared', async () => {
    const before = { 'file:b/': 'before', 'runtime:c/': 'before' }
    const { routes, found, write, scene: happens } = await scene(before)
    happens.onRead = key => {
      if (key !== 'file:b/') return
      happens.onRead = () => {}
      // The incumbent has read its own file again, and an operator has changed a route.
      void write('file:a/', 'of the other file')
      void write('runtime:c/', 'after')
      void write('runtime:d/', 'after')
    }
    const file = fileOf({ a: 'mine', b: 'mine' })
    await routes.prepare(file)
    expect(['a', 'b', 'c', 'd'].map(found)).toEqual(['mine', 'mine', 'after', 'after'])
    await routes.apply(file)
    expect(['a', 'b', 'c', 'd'].map(found)).toEqual(['mine', 'mine', 'after', 'after'])
  })
})

describe('the digest of routes', () => {
  it.each<[what: string, before: Record<string, string>]>([
    ['another answer', { 'file:a/': 'other', 'file:b/': 'two' }],
    ['a missing route', { 'file:a/': 'one' }],
    ['another route of a file', { 'file:a/': 'one', 'file:b/': 'two', 'file:c/': 'three' }],
    ['a route made at run time', { 'file:a/': 'one', 'file:b/': 'two', 'runtime:c/': 'three' }],
  ])('a state with %s gives no digest', async (_what, before) => {
    const { routes } = await scene(before)
    const file = fileOf({ a: 'one', b: 'two' })
    await routes.prepare(file)
    expect((await routes.apply(file)).digest).toBe(null)
  })

  it('a state that a start or a reload need not change gives its digest', async () => {
    const { section, routes } = await scene({ 'file:a/': 'one' })
    const file = fileOf({ a: 'one', b: 'two' })
    await routes.prepare(file)
    await routes.apply(file)
    expect((await routes.apply(file)).digest).toBe(section.digest)
    await routes.prepare(file)
    expect((await routes.apply(file)).digest).toBe(section.digest)
  })

  it('a next version compares nothing with a state of this digest', async () => {
    const { section, routes, found, read } = await scene({ 'file:a/': 'one', 'file:b/': 'two' })
    const compared = vi.spyOn(section, 'isStored_')
    const file = { ...fileOf({ a: 'one', b: 'two' }), digest: section.digest }
    await routes.prepare(file)
    expect(['a', 'b', 'c'].map(found)).toEqual(['one', 'two', NO_ROUTE])
    expect(await routes.apply(file)).toMatchObject({
      puts: [],
      deletes: [],
      unchanged: 2,
      digest: file.digest,
    })
    expect([compared.mock.calls, read]).toEqual([[], []])
  })

  it('a next version compares its routes with a state of another digest', async () => {
    const { section, routes, found, write } = await scene({ 'file:a/': 'one' })
    const file = { ...fileOf({ a: 'one', b: 'two' }), digest: section.digest }
    await write('file:a/', 'other')
    await routes.prepare(file)
    expect(['a', 'b'].map(found)).toEqual(['one', 'two'])
    const { puts } = await routes.apply(file)
    expect(puts.map(({ key }) => key)).toEqual(['file:a/', 'file:b/'])
  })

  it('a state that changes before the routes are written is compared', async () => {
    const { section, routes, found, write } = await scene({ 'file:a/': 'one' })
    const file = { ...fileOf({ a: 'one' }), digest: section.digest }
    await routes.prepare(file)
    await write('file:a/', 'other')
    await write('runtime:b/', 'by hand')
    const { puts, digest } = await routes.apply(file)
    expect([puts.map(({ key }) => key), digest]).toEqual([['file:a/'], null])
    expect(['a', 'b'].map(found)).toEqual(['one', 'by hand'])
  })
})
