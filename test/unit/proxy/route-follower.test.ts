import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { RouteFollower, type RouteSource } from '../../../src/proxy/routes/follow.js'
import { type RouteMessage, routeMessage } from '../../../src/proxy/routes/section.js'
import { NO_ROUTE, RouteTable } from '../../../src/proxy/routes/table.js'

it('a few changed routes are in the table at once, further ones of the turn later', async () => {
  let tell: Parameters<RouteSource['onChange']>[0] = () => {}
  const stored = new Map<string, RouteMessage>()
  const section: RouteSource = {
    size: 0,
    keys: () => stored.keys(),
    get: key => stored.get(key),
    onChange: listener => {
      tell = listener
      return () => {}
    },
  }
  const table = new RouteTable<object>()
  const follower = new RouteFollower(section, table, { compile: target => target })
  const put = (name: string) => {
    const key = `runtime:${name}/`
    const target = { kind: 'respond' as const, status: 200, body: '', headers: [] }
    stored.set(key, routeMessage(target, { created: 0, generation: 1 }))
    tell({ op: 'put', key })
    return table.lookup(name, '/') !== NO_ROUTE
  }
  expect(put('one')).toBe(true)
  const now = Array.from({ length: 1_000 }, (_, n) => put(`h${n}`))
  expect(now.at(0)).toBe(true)
  expect(now.at(-1)).toBe(false)
  await follower.caughtUp()
  expect(table.size).toBe(1_001)
  await nextTurn()
  expect(put('later')).toBe(true)
  follower.stop()
})

it('the routes before a call are in the table although more are changed all the time', async () => {
  let tell: Parameters<RouteSource['onChange']>[0] = () => {}
  let changes = 0
  let going = true
  const change = () => tell({ op: 'put', key: `runtime:example.test/${changes++}` })
  const section: RouteSource = {
    size: 0,
    keys: () => [],
    // As soon as one is applied, the next one comes.
    get: () => {
      if (going) change()
      return undefined
    },
    onChange: listener => {
      tell = listener
      return () => {}
    },
  }
  const follower = new RouteFollower(section, new RouteTable<object>(), { compile: target => target })
  change()
  let caughtUp = false
  const done = follower.caughtUp().then(() => {
    caughtUp = true
  })
  for (let turn = 0; !caughtUp && turn < 100; turn++) await nextTurn()
  expect(caughtUp && changes > 1).toBe(true)
  going = false
  await done
  follower.stop()
})
