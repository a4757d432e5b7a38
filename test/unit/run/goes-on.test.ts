import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { constants, existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { inspectOne, numbersOf, OwnedFd, setBlocking } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import {
  bindListener,
  formatAddress,
  formatListenerSpec,
  parseListenerSpec,
} from '../../../src/listeners/index.js'
import type { NamedListener } from '../../../src/os/foreign-listeners.js'
import { restorePassedSockets } from '../../../src/os/service-manager/passed-sockets.js'
import { RunningVersion, RunningVersions } from '../../../src/run/running-version.js'
import { SharedListeners, StoredListeners } from '../../../src/run/shared-listeners.js'
import { NO_PROBE, Probe, type ProbeEvents, probeOfInherited } from '../../../src/versions/version-probe.js'
import { until } from '../../processes/until.js'
import { versionSettings } from '../../processes/version-settings.js'

const ANY = parseListenerSpec('tcp://127.0.0.1:0')

/** The process that serves at the control sockets of versions that hand over. */
const answering = vi.hoisted(() => ({ pid: null as number | null }))
vi.mock(import('../../../src/operator/serving.js'), async original => ({
  ...(await original()),
  servingPid: () => Promise.resolve(answering.pid),
}))

/** For a version that lives already: it is not started here. */
const NO_CHILDREN = {
  start: () => expect.unreachable('nothing is started'),
  expect() {},
  forget() {},
  signal: () => false,
  kill() {},
}

/** A listener with the address that it has got. */
function bound() {
  const fd = bindListener(ANY)
  const spec = parseListenerSpec(formatAddress(inspectOne(fd)))
  return { fd, spec, inode: inspectOne(fd).ino }
}

describe('a supervisor that goes on as another program', () => {
  it('hands on where only its version answers, also to the program after it', async () => {
    const settings = versionSettings({ ready: { kind: 'http', url: '/health' } })
    const place = 'http://127.0.0.1:1/health'
    const children = { ...NO_CHILDREN, start: () => 0 }
    using probe = await probeOfInherited({ settings, hearing: null, place }, 'well', children)
    expect([probe.url, probe.asksServing]).toEqual([place, true])
    using other = await probeOfInherited({ settings, hearing: null }, 'well', children)
    expect([other.url, other.asksServing]).toEqual([undefined, false])
  })

  it('hears that a version is well again that was not when it was replaced', async () => {
    const server = createServer((_request, response) => response.end())
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const place = `http://127.0.0.1:${(server.address() as AddressInfo).port}/health`
    const settings = versionSettings({ ready: { kind: 'http', url: '/health' } })
    const children = { ...NO_CHILDREN, start: () => 0 }
    using probe = await probeOfInherited({ settings, hearing: null, place }, 'sick', children)
    await new Promise<void>(recovered =>
      probe.start(1, {
        ready: () => expect.unreachable('it serves'),
        failed: why => expect.unreachable(why),
        recovered,
        mainProcess() {},
        statusText() {},
      }),
    )
  })

  it('hears of a version that was reaped by the one before', async () => {
    const { pid } = spawnSync('true')
    const expected: number[] = []
    const children = { ...NO_CHILDREN, expect: (one: number) => void expected.push(one) }
    const settings = versionSettings({})
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const code = await new Promise<number>(exited => {
      const events = {
        exited,
        ready() {},
        failed() {},
        recovered() {},
        isOthers: () => false,
        nextStart: () => Infinity,
      }
      const version = new RunningVersion(
        { id: 1, settings, probe: NO_PROBE, children, listeners, alone: true },
        events,
        was,
      )
      onTestFinished(() => version.close())
    })
    expect(code).toBe(1)
    // No process must be signalled by that number.
    expect(expected).toEqual([])
  })

  it('gives a version that is replaced later the time that it has configured, as before', () => {
    const settings = versionSettings({ stopTimeout: 60_000 })
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid: process.pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const version = new RunningVersion(
      { id: 1, settings, probe: NO_PROBE, children: NO_CHILDREN, listeners, alone: true },
      {
        exited: () => expect.unreachable('it lives'),
        ready() {},
        failed() {},
        recovered() {},
        isOthers: () => false,
        nextStart: () => Infinity,
      },
      was,
    )
    onTestFinished(() => version.close())
    version.stopProbe(true)
    expect(version.settings.stopTimeout).toBe(60_000)
  })

  it('keeps the main process if no descriptor is free to watch another one', async () => {
    const child = spawn('sleep', ['60'])
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const pid = child.pid!
    const settings = versionSettings({})
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const heard: ProbeEvents[] = []
    class Told extends Probe {
      override start(_pid: number, events: ProbeEvents): void {
        heard.push(events)
      }
    }
    const probe = new Told()
    const events = {
      exited: () => expect.unreachable('it lives'),
      ready() {},
      failed() {},
      recovered() {},
      isOthers: () => false,
      nextStart: () => Infinity,
    }
    const was = { id: 1, pid: process.pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const deps = { id: 1, settings, probe, children: NO_CHILDREN, listeners, alone: true }
    const version = new RunningVersion(deps, events, was)
    onTestFinished(() => version.close())
    const before = native.openCount()
    const dup = vi.spyOn(OwnedFd.prototype, 'dup').mockImplementation(() => {
      throw Object.assign(new Error('too many open files'), { code: 'EMFILE' })
    })
    heard[0]!.mainProcess(pid)
    dup.mockRestore()
    expect([version.pid, native.openCount()]).toEqual([process.pid, before])
    heard[0]!.mainProcess(pid)
    expect(version.pid).toBe(pid)
  })
})

describe('a version whose main process is the child of one of its own', () => {
  it('goes on when its former main process ends, and ends with the present one', async () => {
    const [former, present] = [spawn('sleep', ['60']), spawn('sleep', ['60'])]
    onTestFinished(() => [former, present].forEach(child => void child.kill('SIGKILL')))
    await Promise.all([once(former, 'spawn'), once(present, 'spawn')])
    const ended = new Map<number, (code: number) => void>()
    const children = {
      ...NO_CHILDREN,
      expect: (pid: number, end: (code: number) => void) => void ended.set(pid, end),
    }
    const told: ProbeEvents[] = []
    class Told extends Probe {
      override start(_pid: number, events: ProbeEvents): void {
        told.push(events)
      }
    }
    const codes: number[] = []
    const events = {
      exited(code: number, left: Disposable) {
        left[Symbol.dispose]()
        codes.push(code)
      },
      ready() {},
      failed() {},
      recovered() {},
      isOthers: () => false,
      nextStart: () => Infinity,
    }
    const settings = versionSettings({})
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid: former.pid!, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const deps = { id: 1, settings, probe: new Told(), children, listeners, alone: true }
    const version = new RunningVersion(deps, events, was)
    onTestFinished(() => version.close())
    told[0]!.mainProcess(present.pid!)
    ended.get(former.pid!)!(0)
    expect(codes).toEqual([])
    ended.get(present.pid!)!(3)
    expect(codes).toEqual([3])
  })

  it('goes on in the process that serves instead of the main process, also without pidfds', async () => {
    const [former, present] = [spawn('sleep', ['60']), spawn('sleep', ['60'])]
    onTestFinished(() => [former, present].forEach(child => void child.kill('SIGKILL')))
    await Promise.all([once(former, 'spawn'), once(present, 'spawn')])
    answering.pid = present.pid!
    const ended = new Map<number, (code: number) => void>()
    const children = {
      ...NO_CHILDREN,
      expect: (pid: number, end: (code: number) => void) => void ended.set(pid, end),
    }
    const codes: number[] = []
    const events = {
      exited(code: number, left: Disposable) {
        left[Symbol.dispose]()
        codes.push(code)
      },
      ready() {},
      failed() {},
      recovered() {},
      isOthers: () => false,
      nextStart: () => Infinity,
    }
    const settings = versionSettings({ ready: { kind: 'handoff', control: '/no/such/control' } })
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid: former.pid!, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const deps = { id: 1, settings, probe: NO_PROBE, children, listeners, alone: true }
    const version = new RunningVersion(deps, events, was)
    onTestFinished(() => version.close())
    const none = vi.spyOn(native, 'pidfdOpen').mockReturnValue(null)
    ended.get(former.pid!)!(0)
    await until('it has a new main process', () => version.pid === present.pid)
    none.mockRestore()
    expect(codes).toEqual([])
    // The process that served has ended since it answered.
    answering.pid = spawnSync('true').pid
    ended.get(present.pid!)!(3)
    await until('it has ended', () => codes.length > 0)
    expect(codes).toEqual([3])
  })

  it('does not go on in the process of the next version, which a shell has started', async () => {
    const ended: number[] = []
    const events = {
      ready() {},
      failed() {},
      recovered() {},
      mainEnded: () => ({ served: true, graceMs: 1000 }),
      exited: (id: number) => void ended.push(id),
    }
    const all = new RunningVersions(events, new StoredListeners(null, 'shop'), null, null)
    onTestFinished(() => all.close())
    const run = (id: number, script: string) =>
      all.run(
        id,
        versionSettings({
          command: ['sh', '-c', script],
          ready: { kind: 'handoff', control: '/no/such/control' },
        }),
        NO_PROBE,
      )
    const first = run(1, 'exec sleep 600')
    const second = run(2, 'sleep 600; exit')
    onTestFinished(() => second.kill())
    answering.pid = await until('the shell has started it', () => {
      const children = readFileSync(`/proc/${second.pid}/task/${second.pid}/children`, 'latin1')
      return Number(children.trim()) || null
    })
    first.kill()
    await until('the first version has ended', () => ended.length > 0 || first.pid === answering.pid)
    expect([ended, first.pid === answering.pid]).toEqual([[1], false])
  })

  it('gets signals by its pidfd, and not by its number when its parent has reaped it', async () => {
    const parent = spawn('/bin/sh', ['-c', 'sleep 600 & echo $!; wait; read over'], { stdio: 'pipe' })
    onTestFinished(() => void parent.kill('SIGKILL'))
    const [line] = await once(createInterface(parent.stdout), 'line')
    const pid = Number(line)
    const numbers: number[] = []
    const by = (one: number) => numbers.push(one) > 0
    const children = { ...NO_CHILDREN, signal: by, kill: by }
    const settings = versionSettings({})
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const events = {
      exited() {},
      ready() {},
      failed() {},
      recovered() {},
      isOthers: () => false,
      nextStart: () => Infinity,
    }
    const version = new RunningVersion(
      { id: 1, settings, probe: NO_PROBE, children, listeners, alone: true },
      events,
      was,
    )
    onTestFinished(() => version.close())
    version.signal('SIGTERM')
    await until('it has ended, and is reaped', () => !existsSync(`/proc/${pid}`))
    version.signal('SIGTERM')
    version.kill()
    expect(numbers).toEqual([])
  })

  it('leaves alone a child that has got the pid of its process, which has ended', async () => {
    const child = spawn('sleep', ['60'])
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const pid = child.pid!
    const reached: string[] = []
    let reaped = (_code: number) => {}
    const children = {
      ...NO_CHILDREN,
      expect: (_pid: number, act: (code: number) => void) => {
        reaped = act
      },
      signal: () => reached.push('signal') > 0,
      kill: () => void reached.push('kill'),
      forget: () => void reached.push('forget'),
    }
    const settings = versionSettings({})
    const listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const was = { id: 1, pid, settings, startedAt: 0, says: '', replaced: false, hearing: null }
    const events = {
      exited: (_code: number, left: Disposable) => left[Symbol.dispose](),
      ready() {},
      failed() {},
      recovered() {},
      isOthers: () => false,
      nextStart: () => Infinity,
    }
    const version = new RunningVersion(
      { id: 1, settings, probe: NO_PROBE, children, listeners, alone: true },
      events,
      was,
    )
    reaped(0)
    version.signal('SIGTERM')
    version.kill()
    version.close()
    expect(reached).toEqual([])
  })
})

describe('a listener that a service manager has bound', () => {
  it('can be had again after a list that could not be had, and after one that was without it', () => {
    const web = bound()
    const taken = bound()
    onTestFinished(() => taken.fd.close())
    restorePassedSockets([{ name: 'web', fd: web.fd }])
    using listeners = new SharedListeners(new StoredListeners(null, 'shop'))
    const wanted = { name: 'web', spec: web.spec }
    expect(() => listeners.provide([wanted, { name: 'admin', spec: taken.spec }], false, true)).toThrow(
      /is held by process/,
    )
    const inodes = () => listeners.provide([wanted], false, true).map(({ fd }) => inspectOne(fd).ino)
    expect(inodes()).toEqual([web.inode])
    listeners.keepOnly([])
    expect(listeners.held).toEqual([])
    expect(inodes()).toEqual([web.inode])
  })
})

describe('a listener that a service manager keeps', () => {
  it('stays kept, with its clients, if another one cannot be bound', () => {
    const web = bound()
    const taken = bound()
    onTestFinished(() => taken.fd.close())
    const dropped: string[] = []
    const store = { keep() {}, drop: (name: string) => dropped.push(name) }
    const key = Buffer.from(formatListenerSpec(web.spec)).toString('base64url')
    restorePassedSockets([{ name: `fdb.shop.listener-${key}`, fd: web.fd }])
    onTestFinished(() => restorePassedSockets([]))
    using listeners = new SharedListeners(new StoredListeners(store, 'shop'))
    const wanted = { name: 'web', spec: web.spec }
    expect(() => listeners.provide([wanted, { name: 'admin', spec: taken.spec }], false, true)).toThrow(
      /is held by process/,
    )
    expect(dropped).not.toContain(`listener-${key}`)
    expect(listeners.provide([wanted], false, true).map(({ fd }) => inspectOne(fd).ino)).toEqual([web.inode])
  })
})

describe('whether a listener blocks', () => {
  it('follows the request when a version is started alone, and stays as it was under one that runs', async () => {
    const { run, close } = versions()
    const web = bound()
    web.fd.close()
    const wanted = { name: 'web', spec: web.spec }
    const first = run([wanted])
    const fd = first.listener('web')
    expect(blocks(fd)).toBe(true)
    // As a server with an event loop does.
    setBlocking(fd, false)
    const second = run([wanted, { name: 'admin', spec: ANY }], true)
    expect([blocks(fd), blocks(second.listener('admin'))]).toEqual([false, false])
    const third = run([wanted])
    expect(blocks(fd)).toBe(false)
    for (const { ended } of [first, second, third]) await ended()
    run([wanted])
    expect(blocks(fd)).toBe(true)
    await close()
  })

  it('stays as it was where a service manager has it too, and may have started another program with it', async () => {
    const { run, close } = versions()
    const web = bound()
    restorePassedSockets([{ name: 'web', fd: web.fd }])
    const wanted = { name: 'web', spec: web.spec }
    const first = run([wanted], true)
    expect(blocks(web.fd)).toBe(false)
    await first.ended()
    const second = run([wanted])
    expect(blocks(web.fd)).toBe(false)
    // No version wants it, and one again, while another lives that has it.
    second.letGo()
    run([wanted])
    expect(blocks(web.fd)).toBe(false)
    await close()
  })
})

/** Versions that do nothing, with these listeners. */
function versions() {
  const over = new Map<number, () => void>()
  const events = {
    ready() {},
    failed() {},
    recovered() {},
    mainEnded: () => ({ served: false, graceMs: 1000 }),
    exited: (id: number) => over.get(id)?.(),
  }
  const all = new RunningVersions(events, new StoredListeners(null, 'shop'), null, null)
  onTestFinished(() => all.close())
  const living = new Set<() => Promise<void>>()
  const run = (listen: readonly NamedListener[], nonBlocking = false) => {
    const id = over.size + 1
    const settings = versionSettings({ command: ['sleep', '600'], listen, nonBlocking })
    const exited = new Promise<void>(resolve => over.set(id, resolve))
    const version = all.run(id, settings, NO_PROBE)
    const ended = async () => {
      living.delete(ended)
      version.kill()
      await exited
      all.forget(id)
    }
    living.add(ended)
    return {
      ended,
      letGo: () => all.listeners.keepOnly([]),
      listener: (name: string) => all.listeners.held.find(each => each.name === name)!.fd,
    }
  }
  const close = async () => {
    for (const ended of living) await ended()
  }
  return { run, close }
}

function blocks(fd: OwnedFd): boolean {
  const [, flags] = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${numbersOf([fd])[0]}`, 'latin1'))!
  return (Number.parseInt(flags!, 8) & constants.O_NONBLOCK) === 0
}
