import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { startFirst } from '../../../src/member/joining/start.js'
import { resolveOptions } from '../../../src/member/options/options.js'

vi.mock('../../../src/os/memory-room.js', () => ({
  checkMemoryRoom: () => {
    throw new Error('no room')
  },
}))

it('the output for a next version is closed when that one is refused', async () => {
  const { driver, folder } = await startedFirst()
  let open = 0
  driver.runtime.upgrades.output = () => {
    open++
    return { stdio: 'ignore', env: {}, close: () => open-- }
  }
  const start = driver.runtime.upgrades.start({ argv: ['/bin/false'] }, { cwd: folder })
  await expect(start).rejects.toThrow('no room')
  expect(open).toBe(0)
})

it('a next version is refused for want of memory where a version serves, not where one stands in for a killed one', async () => {
  const { driver, folder } = await startedFirst()
  const start = (isStandIn: boolean) =>
    driver.runtime.upgrades.start({ argv: ['/bin/false'] }, { cwd: folder, isStandIn })
  await expect(start(false)).rejects.toThrow('no room')
  await expect(start(true)).rejects.toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED' })
})

async function startedFirst() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-memory-'))
  const driver = await startFirst(resolveOptions({ service: 'shop', control: join(folder, 'control') }), null)
  onTestFinished(async () => {
    await driver.close({ timeout: 0 })
    rmSync(folder, { recursive: true })
  })
  await driver.ready({})
  return { driver, folder }
}
