import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'

async function member() {
  const made = await join({ service: 'shop', control: false })
  onTestFinished(() => made.close({ timeout: 0 }))
  return made
}

it('a member reads its configuration anew by one hook: any other is refused', async () => {
  const shop = await member()
  await expect(shop.reload()).rejects.toMatchObject({ code: 'ERR_FDB_COMMAND_UNKNOWN' })
  const refused = expect.objectContaining({ code: 'ERR_FDB_OPTION' })
  for (const wrong of [null, 'hook', {}])
    expect(() => Reflect.apply(shop.onReload, shop, [wrong])).toThrow(refused)
  let calls = 0
  shop.onReload(() => calls++)
  expect(() => shop.onReload(() => {})).toThrow(refused)
  await shop.reload()
  expect(calls).toBe(1)
})

it('a reload begins when the one before has ended, also when that has failed', async () => {
  const shop = await member()
  const story: string[] = []
  shop.onReload(async () => {
    story.push('begins')
    await null
    story.push('ends')
    if (story.length === 2) throw new Error('of the hook')
  })
  const both = await Promise.allSettled([shop.reload(), shop.reload()])
  expect(story).toEqual(['begins', 'ends', 'begins', 'ends'])
  expect(both.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
})
