import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { present, releases } from '../processes/release.js'
import { type Item, Service } from '../processes/skew-service.js'
import { until } from '../processes/until.js'

async function withFile(): Promise<Service> {
  const service = await Service.open()
  service.stateFile = join(service.sandbox.folder, 'state')
  return service
}

async function written(service: Service): Promise<void> {
  const file = async () => (await service.status()).state.file
  await until('all of it is in the file', async () => (await file())?.behindBytes === 0, 20_000, file)
}

async function killed(pid: number): Promise<void> {
  signalPid(pid, 'SIGKILL')
  await until('it ends', () => hasEnded(pid))
}

describe('the state file', () => {
  const having = releases()
  it.runIf(NIGHTLY).each(having)(
    'continues from $name in the present version, and the other way round',
    async previous => {
      const service = await withFile()
      let serving = await service.next(previous, 1)
      await service.ask('/items/a', 'PUT', { name: 'a', cents: 1 })
      for (const [n, version] of [present, previous].entries()) {
        // A reboot, and then an upgrade.
        await written(service)
        const { state } = await service.status()
        await killed(serving)
        // The older schema: with the newer one something is written at the start.
        serving = await service.next(version, 1)
        const after = await service.status()
        expect(after.generation).toBe(1)
        expect(after.state.digest).toBe(state.digest)
        await service.ask(`/items/${n}`, 'PUT', { name: `item ${n}`, cents: n })
        serving = await service.next(version === present ? previous : present, version === present ? 1 : 2)
        await service.ask(`/items/${n}-too`, 'PUT', { name: `item ${n} too`, cents: n })
      }
      await written(service)
      await killed(serving)
      await service.next(present, 2)
      expect(Object.keys(await service.all<Item>('items')).sort()).toEqual(['0', '0-too', '1', '1-too', 'a'])
    },
  )

  it('meets a refusal, by section and versions, of a version that may not read it, and stays as it is', async () => {
    const service = await withFile()
    const first = await service.next(present, 3)
    await service.ask('/items/a', 'PUT', { name: 'a', cents: 1 })
    await written(service)
    await killed(first)
    const before = readFileSync(service.stateFile)
    const refused = await service.launch(present, 1)
    const { code, message } = await service.said(refused, 'failed')
    expect({ code, message }).toMatchObject({
      code: 'ERR_FDB_SCHEMA',
      message: expect.stringMatching(
        /^section "items" was written with schema version 3, .* reader of version 2/,
      ),
    })
    await until('the refused one ends', () => hasEnded(refused))
    expect(readFileSync(service.stateFile).equals(before)).toBe(true)
    await service.next(present, 2)
    expect(await service.all<Item>('items')).toEqual({ a: { name: 'a', cents: 1 } })
  })
})
