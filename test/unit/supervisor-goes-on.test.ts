import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { describe, expect, it, onTestFinished } from 'vitest'
import { inspectOne } from '../../src/kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../../src/listeners/index.js'
import { keepPassed } from '../../src/supervised/passed-sockets.js'
import type { Children } from '../../src/supervisor/children.js'
import { KeptListeners } from '../../src/supervisor/kept-listeners.js'
import { SETTLED } from '../../src/supervisor/probe.js'
import { RunningVersion } from '../../src/supervisor/running-version.js'
import type { VersionSettings } from '../../src/supervisor/settings.js'
import { SharedListeners } from '../../src/supervisor/shared-listeners.js'
import { until } from '../processes/until.js'

const ANY = parseListenerSpec('tcp://127.0.0.1:0')

/** A listener with the address that it has got. */
function bound() {
  const fd = bindListener(ANY)
  const spec = parseListenerSpec(formatAddress(inspectOne(fd)))
  return { fd, spec, inode: inspectOne(fd).ino }
}

describe('a supervisor that goes on as another program', () => {
  it('is told of a version that was reaped by the one before', async () => {
    const { pid } = spawnSync('true')
    const expected: number[] = []
    const children = { expect: (one: number) => expected.push(one), forget() {} } as unknown as Children
    const settings = { ready: { kind: 'notify' }, listen: [] } as unknown as VersionSettings
    const listeners = new SharedListeners(new KeptListeners(null, 'shop'))
    const was = { id: 1, pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const code = await new Promise<number>(exited => {
      const events = { exited, ready() {}, failed() {}, isOthers: () => false }
      const version = new RunningVersion(
        { id: 1, settings, probe: SETTLED, children, listeners },
        events,
        was,
      )
      onTestFinished(() => version.close())
    })
    expect(code).toBe(1)
    // Nobody is to be signalled by that number.
    expect(expected).toEqual([])
  })
})

describe('a version whose main process is the child of one of its own', () => {
  it('is signalled by its pidfd, and not by its number when its parent has reaped it', async () => {
    const parent = spawn('/bin/sh', ['-c', 'sleep 600 & echo $!; wait; read over'], { stdio: 'pipe' })
    onTestFinished(() => void parent.kill('SIGKILL'))
    const [line] = await once(createInterface(parent.stdout), 'line')
    const pid = Number(line)
    const numbers: number[] = []
    const by = (one: number) => numbers.push(one) > 0
    const children = { expect() {}, forget() {}, signal: by, kill: by } as unknown as Children
    const settings = { ready: { kind: 'notify' }, listen: [] } as unknown as VersionSettings
    const listeners = new SharedListeners(new KeptListeners(null, 'shop'))
    const was = { id: 1, pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const events = { exited() {}, ready() {}, failed() {}, isOthers: () => false }
    const version = new RunningVersion({ id: 1, settings, probe: SETTLED, children, listeners }, events, was)
    onTestFinished(() => version.close())
    version.signal('SIGTERM')
    await until('it has ended, and is reaped', () => !existsSync(`/proc/${pid}`))
    version.signal('SIGTERM')
    version.kill()
    expect(numbers).toEqual([])
  })
})

describe('a listener that a service manager has bound', () => {
  it('can be had again after a list that could not be had, and after one that was without it', () => {
    const web = bound()
    const taken = bound()
    onTestFinished(() => taken.fd.close())
    keepPassed([{ name: 'web', fd: web.fd }])
    using listeners = new SharedListeners(new KeptListeners(null, 'shop'))
    const wanted = { name: 'web', spec: web.spec }
    expect(() => listeners.provide([wanted, { name: 'admin', spec: taken.spec }], false)).toThrow(
      /is held by process/,
    )
    const inodes = () => listeners.provide([wanted], false).map(({ fd }) => inspectOne(fd).ino)
    expect(inodes()).toEqual([web.inode])
    listeners.keepOnly([])
    expect(listeners.held).toEqual([])
    expect(inodes()).toEqual([web.inode])
  })
})
