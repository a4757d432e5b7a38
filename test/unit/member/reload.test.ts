import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'
import { OperatorClient, statusAt } from '../../../src/operator/client.js'
import { RELOAD } from '../../../src/operator/service-commands.js'

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

it('a reload whose sender has gone while it waited is not begun', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-reload-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const shop = await join({ service: 'shop', control })
  onTestFinished(() => shop.close({ timeout: 0 }))
  const ends: (() => void)[] = []
  shop.onReload(() => new Promise<void>(resolve => ends.push(resolve)))
  await shop.ready()
  const first = shop.reload()
  const sender = await OperatorClient.connect(control)
  sender.command(RELOAD, '').catch(() => {})
  // The answer shows that the order was read.
  await sender.status()
  sender.close()
  await statusAt(control, 60_000)
  const last = shop.reload()
  ends[0]!()
  await first
  await expect.poll(() => ends.length).toBe(2)
  ends[1]!()
  await last
  expect(ends.length).toBe(2)
})

it('a version that was replaced after a reload leaves when the next one has read its configuration again', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-reload-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const version = async () => {
    const options = { service: 'shop', control: joinPath(folder, 'control.sock'), upgrade: { probation: 0 } }
    const made = await join(options)
    onTestFinished(() => made.close({ timeout: 0 }))
    return made
  }
  const story: string[] = []
  const before = await version()
  before.onReload(() => {})
  await before.ready()
  await before.reload()
  void before.retired.then(() => story.push('the previous version has left'))
  const next = await version()
  let read = () => {}
  next.onReload(async () => {
    await new Promise<void>(resolve => {
      read = resolve
    })
    story.push('the next version has read')
  })
  await next.ready()
  await expect.poll(() => before.phase).toBe('gone')
  // Without that wait the previous version would end in the next turns.
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
  read()
  await before.retired
  expect(story).toEqual(['the next version has read', 'the previous version has left'])
})
