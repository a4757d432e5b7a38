import { describe, expect, it } from 'vitest'
import { planOf, RouteView } from '../../../src/proxy/routes/live-routes.js'
import type { Reconciled } from '../../../src/proxy/routes/reconcile.js'
import { ROUTES, routeMessage, routesSection, targetOf } from '../../../src/proxy/routes/section.js'
import { runInSlices } from '../../../src/state/time-slices.js'
import { writingLog } from '../../fixtures/state-logs.js'

const to = (upstream: string) =>
  routeMessage({ kind: 'upstream', upstream, connect: false }, { generation: 1, created: 0 })

async function view(own = () => true) {
  const { log } = writingLog()
  const section = log.section(ROUTES, routesSection)
  await section.put('file:a/', to('old'))
  await section.put('file:b/', to('old'))
  await section.put('runtime:c/', to('old'))
  const seen = new RouteView(section, own)
  const all = () =>
    Object.fromEntries(
      [...seen.keys()].flatMap(key => {
        const stored = seen.get(key)
        const target = stored && targetOf(stored)
        return stored ? [[key, target?.kind === 'upstream' ? target.upstream : '']] : []
      }),
    )
  return { section, seen, all }
}

const plan: Reconciled = {
  puts: [
    { key: 'file:a/', value: to('new') },
    { key: 'file:d/', value: to('new') },
  ],
  deletes: ['file:b/'],
  unchanged: 0,
  conflicts: [],
  former: [],
  dangling: [],
  needed: new Set<string>(),
  digest: null,
}

describe('the routes as a process serves them', () => {
  it('come from the state', async () => {
    const { all } = await view()
    expect(all()).toEqual({ 'file:a/': 'old', 'file:b/': 'old', 'runtime:c/': 'old' })
  })

  it('have what is planned already, over whatever the state says meanwhile', async () => {
    const { section, seen, all } = await view()
    seen.plan(await runInSlices(planOf(plan)))
    const planned = { 'file:a/': 'new', 'file:d/': 'new', 'runtime:c/': 'old' }
    expect(all()).toEqual(planned)
    expect(seen.get('file:b/')).toBeUndefined()
    await section.put('file:a/', to('other'))
    await section.put('runtime:e/', to('other'))
    expect(all()).toEqual({ ...planned, 'runtime:e/': 'other' })
    seen.plan(null)
    expect(all()).toMatchObject({ 'file:a/': 'other', 'file:b/': 'old' })
  })

  it('change with the file in the state only while that is this process’s own', async () => {
    let own = true
    const { section, seen } = await view(() => own)
    const heard: string[] = []
    const stop = seen.onChange(({ op, key }) => heard.push(`${op} ${key}`))
    await section.put('file:a/', to('x'))
    own = false
    await section.put('file:a/', to('y'))
    await section.put('runtime:c/', to('y'))
    await section.clear()
    own = true
    await section.put('file:b/', to('y'))
    stop()
    await section.put('file:a/', to('z'))
    expect(heard).toEqual(['put file:a/', 'put runtime:c/', 'put file:b/'])
  })
})
