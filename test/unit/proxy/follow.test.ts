import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { fdbroker } from '../../../src/proto/proxy.js'
import { RouteFollower } from '../../../src/proxy/routes/follow.js'
import { reconcile } from '../../../src/proxy/routes/reconcile.js'
import { addRoutes } from '../../../src/proxy/routes/runtime.js'
import { ROUTES, type RouteChange, routeMessage, routesSection } from '../../../src/proxy/routes/section.js'
import { NO_ROUTE, RouteTable } from '../../../src/proxy/routes/table.js'
import type { RouteTarget } from '../../../src/proxy/routes/target.js'
import { applySetting, settingMessages } from '../../../src/proxy/state/entries.js'
import { runInSlices } from '../../../src/state/time-slices.js'
import { config, EXAMPLE } from '../../fixtures/proxy-config.js'
import type { StateLog } from '../../fixtures/state.js'
import { longestTurn, readBy, writingLog } from '../../fixtures/state-logs.js'
import { perLane } from '../../lanes/lane.js'
import { leastOf } from '../../processes/worked.js'

const MANY = perLane(20_000, 100_000)
const STAMP = { generation: 1, created: 0 }
const to = (upstream: string): RouteTarget => ({ kind: 'upstream', upstream, connect: false })

function follow() {
  const { log } = writingLog()
  const section = log.section(ROUTES, routesSection)
  const table = new RouteTable<{ name: string }>()
  const unreadable: string[] = []
  const compiled: string[] = []
  const follower = new RouteFollower(section, table, {
    compile: target => {
      const name = target.kind === 'upstream' ? target.upstream : `${target.status}`
      compiled.push(name)
      if (name === 'impossible') throw new Error('no such upstream')
      return { name }
    },
    onUnreadable: key => unreadable.push(key),
  })
  follower.refresh()
  const found = (host: string) => {
    const result = table.lookup(host, '/')
    return typeof result === 'symbol' ? result : result.name
  }
  return { log, section, table, follower, found, unreadable, compiled }
}

describe('a table that follows the state', () => {
  it('has what is there, then every change', async () => {
    const { log, section, follower, found } = follow()
    await section.put('file:a/', routeMessage(to('one'), STAMP))
    await section.put('other:key', routeMessage(to('one'), STAMP))
    await follower.caughtUp()
    expect(found('a')).toBe('one')
    void section.put('runtime:a/', routeMessage(to('two'), STAMP))
    await follower.caughtUp()
    expect(found('a')).toBe('two')
    await section.bulk([
      { key: 'runtime:a/', delete: true },
      { key: 'runtime:b/', value: routeMessage(to('three'), STAMP) },
    ])
    await follower.caughtUp()
    expect([found('a'), found('b')]).toEqual(['one', 'three'])
    await section.clear()
    await section.put('file:c/', routeMessage(to('four'), STAMP))
    await follower.caughtUp()
    expect([found('a'), found('b'), found('c')]).toEqual([NO_ROUTE, NO_ROUTE, 'four'])
    follower.stop()
    await section.delete('file:c/')
    await follower.caughtUp()
    expect(found('c')).toBe('four')
    log.close()
  })

  it('compiles an upstream once, and again when that is asked for', async () => {
    const { log, section, follower, compiled } = follow()
    await section.bulk(
      Array.from({ length: 50 }, (_, i) => ({ key: `file:h${i}/`, value: routeMessage(to('app'), STAMP) })),
    )
    await follower.caughtUp()
    expect(compiled).toEqual(['app'])
    follower.refresh()
    await follower.caughtUp()
    expect(compiled).toEqual(['app', 'app'])
    follower.stop()
    log.close()
  })

  it('forgets the compiled targets of routes that were removed', async () => {
    const { log, section, follower, found, compiled } = follow()
    await section.put('file:kept/', routeMessage(to('kept'), STAMP))
    for (let round = 0; round < 4; round++) {
      const upstreams = Array.from({ length: 500 }, (_, i) => `${round}.${i}`)
      await section.bulk(
        upstreams.map((name, i) => ({ key: `runtime:h${i}/`, value: routeMessage(to(name), STAMP) })),
      )
      await follower.caughtUp()
      await section.bulk(upstreams.map((_, i) => ({ key: `runtime:h${i}/`, delete: true })))
      await follower.caughtUp()
    }
    await section.put('file:again/', routeMessage(to('0.0'), STAMP))
    await follower.caughtUp()
    expect(compiled.filter(name => name === '0.0')).toHaveLength(2)
    expect([found('kept'), found('again'), found('h0')]).toEqual(['kept', '0.0', NO_ROUTE])
    // Routes that stay are compiled again only rarely.
    expect(compiled.filter(name => name === 'kept').length).toBeLessThan(4)
    follower.stop()
    log.close()
  })

  it('serves no route that it cannot read or compile, and says which', async () => {
    const { log, section, follower, found, unreadable } = follow()
    const newer = fdbroker.proxy.Route.create({})
    await section.bulk([
      { key: 'file:a/', value: routeMessage(to('impossible'), STAMP) },
      { key: 'file:b/', value: newer },
      { key: 'file:c/', value: routeMessage(to('fine'), STAMP) },
    ])
    await follower.caughtUp()
    expect([found('a'), found('b'), found('c')]).toEqual([NO_ROUTE, NO_ROUTE, 'fine'])
    expect(new Set(unreadable)).toEqual(new Set(['file:a/']))
    follower.stop()
    log.close()
  })

  it('closes a route whose guard only newer versions know: its requests do not get a wider route', async () => {
    const { log, section, follower, table } = follow()
    const upstream = { name: 'app' }
    const guarded = fdbroker.proxy.Route.create({ guarded: { upstream } })
    const basicAuth = { users: [{ name: 'a', sha256: '0'.repeat(64) }] }
    const two = { guarded: { upstream, basicAuth, forwardAuth: { upstream: 'auth' } } }
    await section.put('file:*/', routeMessage(to('open'), STAMP))
    await section.put('runtime:*/admin', guarded)
    await section.put('runtime:*/both', fdbroker.proxy.Route.create(two))
    const found = (path: string) => {
      const result = table.lookup('a', path)
      return typeof result === 'symbol' ? result : result.name
    }
    await follower.caughtUp()
    expect([found('/'), found('/admin/x'), found('/both')]).toEqual(['open', '503', '503'])
    const file = { routes: [], upstreams: new Set<string>(), former: new Set<string>() }
    const served = new Map<string, RouteTarget>()
    await runInSlices(reconcile(section, file, STAMP, (id, target) => void served.set(id.path, target)))
    expect(served.get('/admin')).toMatchObject({ kind: 'respond', status: 503 })
    follower.stop()
    log.close()
  })

  it(`takes ${MANY} routes at run time without stalling, and so does the successor`, async () => {
    const upstreams = new Set(['app'])
    const given = Array.from({ length: MANY }, (_, i) => ({ host: `h${i}.example.com`, upstream: 'app' }))
    const planning = { ...STAMP, upstreams, listeners: new Set<string>() }
    let log!: StateLog
    const turns = await leastOf(100, async () => {
      log?.close()
      const { section, follower, found, table, ...rest } = follow()
      log = rest.log
      let changes: RouteChange[] = []
      const adding = await longestTurn(async () => {
        changes = (await runInSlices(addRoutes(section, given, planning))).changes
      })
      await section.bulk(changes)
      const following = await longestTurn(() => follower.caughtUp())
      expect([table.size, found(`h${MANY - 1}.example.com`)]).toEqual([MANY, 'app'])
      follower.stop()
      return [adding, following]
    })
    // Slices of 3 ms; the rest is for garbage collection, and for a machine that has other work.
    for (const longest of turns) expect(longest).toBeLessThan(100)

    const reader = await readBy(log)
    const successor = reader.section(ROUTES, routesSection)
    const next = new RouteTable<string>()
    const taken = new RouteFollower(successor, next, { compile: () => 'app' })
    taken.refresh()
    const result = await runInSlices(
      reconcile(successor, { routes: [], upstreams, former: new Set() }, STAMP),
    )
    expect([...result.puts, ...result.deletes]).toEqual([])
    await taken.caughtUp()
    expect([next.size, next.lookup('h5.example.com', '/x')]).toEqual([MANY, 'app'])
    taken.stop()
    reader.close()
    log.close()
  })
})

describe('a setting of the followed state', () => {
  it.each([
    ['instanceHeader', 'X-Pid', 'X Pid'],
    ['via', 'edge', 'edge\r\nSet-Cookie: a=b'],
  ] as const)('named %s is taken only if it fits into a head', (path, possible, impossible) => {
    const ours = config(EXAMPLE)
    const apply = (text: string | null) => {
      applySetting(ours, path, fdbroker.proxy.Setting.create({ text }))
      return ours[path]
    }
    const before = ours[path]
    expect([impossible, possible, null].map(apply)).toEqual([before, possible, null])
  })

  it.each([
    ['timeouts.idle', { number: 5_000 }, [{ number: 0 }, { number: Number.NaN }, { text: '5s' }, {}]],
    ['timeouts.request', { number: 5_000 }, [{ number: -1 }, { number: 2 ** 31 }]],
    ['limits.fields', { number: 7 }, [{ number: 0 }, { number: 1.5 }]],
    ['limits.body', { number: 0 }, [{ number: -1 }, { text: '1m' }, { flag: true }]],
    ['limits.connections', { text: 'auto' }, [{ text: 'many' }, { number: 0 }]],
    ['limits.connectionsPerClient', { number: 3 }, [{ text: 'auto' }]],
    ['tls.minVersion', { text: 'TLSv1.3' }, [{ text: 'TLSv1.4' }]],
    ['tls.rotateTicketKeys', { number: 60_000 }, [{ number: 0 }]],
    ['forwarded.headers', { text: 'both' }, [{ text: 'all' }]],
    ['instanceHeader', { text: 'X-Pid' }, [{ number: 1 }, { flag: true }]],
    ['accessLog', { flag: true }, [{ number: 1 }]],
    ['accessLine.format', { text: 'combined' }, [{ text: 'xml' }, { flag: true }]],
    ['tracing.requestId', { text: 'X-Id' }, [{ text: 'X Id' }]],
  ])('named %s is taken only if this version can use it', (path, possible, impossible) => {
    const ours = config(EXAMPLE)
    const apply = (values: object) => {
      applySetting(ours, path, fdbroker.proxy.Setting.create(values))
      return path.split('.').reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], ours)
    }
    const taken = Object.values(possible)[0]
    expect(apply(possible)).toBe(taken)
    expect(impossible.map(apply)).toEqual(impossible.map(() => taken))
  })

  it('with networks is taken without those that this version cannot read', () => {
    const ours = config(EXAMPLE)
    const items = ['10.0.0.0/8', 'fd00::/8', '10.0.0.0/99', 'edge.test', 'fd00::/-1', '192.0.2.1/32']
    applySetting(ours, 'forwarded.trust', fdbroker.proxy.Setting.create({ list: { items } }))
    expect(ours.forwarded.trust).toEqual([
      { address: '10.0.0.0', prefix: 8, family: 'ipv4' },
      { address: 'fd00::', prefix: 8, family: 'ipv6' },
      { address: '192.0.2.1', prefix: 32, family: 'ipv4' },
    ])
  })

  it('with error pages is taken with the files that can be read, and changes with their contents', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-pages-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const [busy, gone] = [join(folder, 'so busy.html'), join(folder, 'gone')]
    const written = (contents: string) => {
      writeFileSync(busy, contents)
      writeFileSync(gone, '')
      const text = `${EXAMPLE}errorPages: { 503: ${JSON.stringify(busy)}, 4xx: ${JSON.stringify(gone)} }\n`
      return settingMessages(config(text), STAMP).get('errorPages')!
    }
    const setting = written('busy: $reason')
    expect(written('other').list).not.toEqual(setting.list)
    written('busy: $reason')
    rmSync(gone)
    const ours = config(EXAMPLE)
    applySetting(ours, 'errorPages', setting)
    const page = { path: busy, type: 'text/html; charset=utf-8', text: 'busy: $reason' }
    expect(ours.errorPages).toEqual([['503', page]])
    const items = ['503', '503,[object Object]', `99 0 ${busy}`, `500 0 ${folder}`]
    applySetting(ours, 'errorPages', fdbroker.proxy.Setting.create({ list: { items } }))
    expect(ours.errorPages).toEqual([])
  })
})
