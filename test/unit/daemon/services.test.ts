import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile } from '../../../src/kernel/index.js'
import { daemonServices } from '../../holder-support/daemon-services.js'
import { callerWith } from '../../holder-support/processes.js'

function folderOf(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-services-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

describe('the services of a daemon', () => {
  it('leave no descriptor for the next daemon when an operator has ended them', () => {
    const registry = new Registry()
    for (const service of ['shop', 'mail'])
      registry.put(namedEntry(`${service}/named/web`, memoryFile('web', 'a memory file')))
    const services = daemonServices(folderOf(), { registry })
    services.restore()
    services.endUnserved('shop', { timeoutMs: null, drop: true })
    expect(services.all.map(({ name }) => name)).toEqual(['mail'])
    expect(registry.named.map(({ name }) => name)).toEqual(['mail/named/web'])
  })

  it('wait for members that come back if the list of members is lost', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'setInterval', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const registry = new Registry()
    registry.put(namedEntry('shop/named/web', memoryFile('web', 'a memory file')))
    const services = daemonServices(folderOf(), { registry })
    services.restore()
    const [shop] = services.all
    const operations = () => ({ unserved: shop!.unserved, isRecovering: shop!.operations.isRecovering })
    expect(operations()).toEqual({ unserved: false, isRecovering: true })
    await vi.advanceTimersByTimeAsync(6_000)
    expect(operations()).toEqual({ unserved: true, isRecovering: false })
  })

  it('end if no member has served, also after a handoff of the daemon that failed', async () => {
    const services = daemonServices(folderOf())
    services.restore()
    // In the turn in which they changed.
    services.close({ kept: true })
    services.restore()
    expect(services.findOrCreate(callerWith({ hello: { service: 'shop' } }))?.name).toBe('shop')
    services.pause()
    services.resume()
    await nextTurn()
    await nextTurn()
    expect(services.size).toBe(0)
  })
})
