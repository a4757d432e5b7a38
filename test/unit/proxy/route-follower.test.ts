import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { RouteFollower, type RouteSource } from '../../../src/proxy/routes/follow.js'
import { RouteTable } from '../../../src/proxy/routes/table.js'

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
