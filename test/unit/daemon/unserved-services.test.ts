import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import type { Unserved } from '../../../src/daemon/policy/policy.js'
import { parsePolicy } from '../../../src/daemon/policy/schema.js'
import { UnservedServices } from '../../../src/daemon/services.js'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile } from '../../../src/kernel/index.js'
import { daemonServices } from '../../holder-support/daemon-services.js'
import { until } from '../../processes/until.js'

function folderOf(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-unserved-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A service without a serving process, under a rule that may be another one at each look. */
function underRule(ruled: () => Unserved, isUnserved = () => true) {
  const lines: { readonly facts: object; readonly message: string }[] = []
  const warn = (facts: object, message: string) => lines.push({ facts, message })
  const ended: string[] = []
  const services = new UnservedServices({
    control: '/run/daemon.sock',
    logger: { ...SILENT, warn },
    rule: ruled,
    isUnserved,
    isPaused: () => false,
    end: service => ended.push(service),
  })
  onTestFinished(() => services.close())
  return { services, lines, ended }
}

describe('a service that nobody serves', () => {
  it('has its command run without what the daemon was told of itself', async () => {
    const file = join(folderOf(), 'env')
    const told = { NOTIFY_SOCKET: '/run/systemd/notify', FDSTORE: '512', FD_BROKER_MAIN_PROCESS: '1' }
    for (const [name, value] of Object.entries(told)) vi.stubEnv(name, value)
    onTestFinished(() => void vi.unstubAllEnvs())
    const { services } = underRule(() => ({
      afterMs: 0,
      act: { run: `env > ${file}~; mv ${file}~ ${file}` },
    }))
    services.update('shop')
    await until('it has run', () => existsSync(file))
    const names = readFileSync(file, 'utf8')
      .split('\n')
      .map(line => line.split('=')[0])
    expect(names).toEqual(expect.arrayContaining(['PATH', 'FD_BROKER_SERVICE', 'FD_BROKER_CONTROL']))
    for (const name of Object.keys(told)) expect(names).not.toContain(name)
  })

  it('waits if its command cannot be started, and the log says so', async () => {
    // No process is given an argument of that length.
    const { lines, services } = underRule(() => ({ afterMs: 0, act: { run: `: ${'x'.repeat(300_000)}` } }))
    services.update('shop')
    await until('it was tried', () => lines.length > 0)
    expect(lines[0]).toMatchObject({ facts: { service: 'shop', err: { code: 'E2BIG' }, againMs: 1000 } })
  })

  it('has its command run again after twice as long each time, and 60 s at most', async () => {
    vi.useFakeTimers()
    onTestFinished(() => void vi.useRealTimers())
    const { lines, services } = underRule(() => ({ afterMs: 0, act: { run: `: ${'x'.repeat(300_000)}` } }))
    services.update('shop')
    await vi.advanceTimersByTimeAsync(150_000)
    const pauses = lines.map(({ facts }) => (facts as { againMs: number }).againMs / 1000)
    expect(pauses).toEqual([1, 2, 4, 8, 16, 32, 60, 60])
  })

  it('has its command not run again when a member serves that it has started', async () => {
    const folder = folderOf()
    const [pids, end] = [join(folder, 'pids'), join(folder, 'end')]
    const run = `echo $$ >> ${pids}; until [ -e ${end} ]; do sleep 0.01; done`
    let unserved = true
    const { lines, services } = underRule(
      () => ({ afterMs: 0, act: { run } }),
      () => unserved,
    )
    services.update('shop')
    const pid = await until('it runs', () =>
      existsSync(pids) ? Number(readFileSync(pids, 'utf8')) || null : null,
    )
    unserved = false
    services.update('shop')
    writeFileSync(end, '')
    await until('it has ended, and this process knows', () => !existsSync(`/proc/${pid}`))
    // This process hears of the end in one of the next turns.
    for (let i = 0; i < 5; i++) await new Promise(resolve => setImmediate(resolve))
    expect(lines).toEqual([])
  })

  it('does not end when a member serves again in time', async () => {
    vi.useFakeTimers()
    onTestFinished(() => void vi.useRealTimers())
    let unserved = true
    const { ended, services } = underRule(
      () => ({ afterMs: 200, act: 'close' }),
      () => unserved,
    )
    services.update('shop')
    await vi.advanceTimersByTimeAsync(199)
    unserved = false
    services.update('shop')
    await vi.advanceTimersByTimeAsync(60_000)
    expect([ended, vi.getTimerCount()]).toEqual([[], 0])
  })

  it('does not end before a daemon that was stopped longer has read what waits', async () => {
    const heard: string[] = []
    const { ended, services } = underRule(
      () => ({ afterMs: 100, act: 'close' }),
      () => heard.length === 0,
    )
    services.update('shop')
    for (const stop = performance.now() + 300; performance.now() < stop; );
    // A connection, the first message on it and the answers of the kernel take a few turns.
    await new Promise(resolve => setTimeout(resolve, 20))
    heard.push('a member')
    services.update('shop')
    expect(ended).toEqual([])
  })

  it('keeps its time when the same rule was read again', async () => {
    const { ended, services } = underRule(() => ({ afterMs: 200, act: 'close' }))
    const looks = setInterval(() => services.update('shop'), 20)
    onTestFinished(() => clearInterval(looks))
    await until('it is ended', () => ended.length > 0)
  })

  it('ends when the daemon goes on, if its time has passed during a handoff of the daemon that failed', async () => {
    const registry = new Registry()
    registry.put(namedEntry('shop/named/web', memoryFile('web', 'a memory file')))
    const policy = parsePolicy('default: { unserved: { after: 100ms, close: true } }', 'daemon.yaml')
    const services = daemonServices(folderOf(), { registry, policy })
    services.restore()
    services.pause()
    await new Promise(resolve => setTimeout(resolve, 200))
    expect(services.size).toBe(1)
    services.resume()
    await until('it is ended', () => services.size === 0)
  })
})
