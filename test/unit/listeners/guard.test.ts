import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  constants as fileConstants,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { numbersOf, type OwnedFd, setBlocking } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import {
  bindListener,
  formatListenerSpec,
  ListenerGuard,
  parseListenerSpec,
  parseSentSpec,
} from '../../../src/listeners/index.js'
import { restorePath } from '../../../src/listeners/kept-path.js'
import { removeUnixPath } from '../../../src/listeners/unix-path.js'
import { SharedListeners, StoredListeners } from '../../../src/run/shared-listeners.js'
import { freePort } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

interface Line {
  readonly level: 'warn' | 'error'
  readonly text: string
  readonly why?: string
}

function guarded(text: string, { named = text } = {}) {
  const lines: Line[] = []
  const log = (level: Line['level']) => (facts: object, text: string) =>
    void lines.push({ ...facts, level, text })
  const guard = new ListenerGuard({ ...SILENT, warn: log('warn'), error: log('error') })
  const spec = parseListenerSpec(text)
  const fd = bindListener(spec)
  guard.add({ name: 'web', spec: parseSentSpec(named), fd })
  onTestFinished(() => {
    guard[Symbol.dispose]()
    removeUnixPath(fd, spec)
    fd.close()
  })
  return { guard, fd, lines }
}

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-guard-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

/** Lets another process that shares the socket call shutdown(2), `times` times. */
async function shutDown(fd: OwnedFd, times = 1): Promise<void> {
  const script = `import socket, time\ns = socket.socket(fileno=3)\nfor _ in range(${times}):\n  s.shutdown(2)\n  time.sleep(0.002)`
  const child = spawn('python3', ['-c', script], {
    stdio: ['ignore', 'inherit', 'ignore', ...numbersOf([fd])],
  })
  await once(child, 'exit')
}

function blocks(fd: OwnedFd): boolean {
  const [, flags] = /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${numbersOf([fd])[0]}`, 'latin1'))!
  return (Number.parseInt(flags!, 8) & fileConstants.O_NONBLOCK) === 0
}

/** 'connected', or the code of the failure. */
async function reach(to: { port: number; host: string } | { path: string }): Promise<string> {
  const client = connect(to)
  return (await new Promise(resolve => {
    client
      .on('connect', () => resolve('connected'))
      .on('error', error => resolve((error as { code?: string }).code!))
  }).finally(() => client.destroy())) as string
}

function inotifyInstances(): number {
  const links = readdirSync('/proc/self/fd').map(number => {
    try {
      return readlinkSync(`/proc/self/fd/${number}`)
    } catch {
      return ''
    }
  })
  return links.filter(link => link === 'anon_inode:inotify').length
}

/** Another thread closes them, so that those of a test before may be there for a while. */
async function noInotifyInstance(): Promise<void> {
  await until('no inotify instance is left', () => inotifyInstances() === 0)
}

async function listensAgain(port: number): Promise<void> {
  await until(
    'it listens again',
    async () => (await reach({ port, host: '127.0.0.1' })) === 'connected',
    5_000,
  )
}

describe('a shared TCP listener', () => {
  it('listens again at once when a process shuts it down, and the log says so once', async () => {
    const port = await freePort()
    const { fd, guard, lines } = guarded(`tcp://127.0.0.1:${port}`)
    for (let i = 0; i < 2; i++) {
      await shutDown(fd)
      await listensAgain(port)
    }
    expect(guard.faultOf(fd)).toBeNull()
    expect(lines).toMatchObject([{ level: 'warn', text: expect.stringMatching(/shut it down for all/) }])
  })

  it('listens again after a process has shut it down many times', async () => {
    const port = await freePort()
    const { fd, guard, lines } = guarded(`tcp://127.0.0.1:${port}`)
    await shutDown(fd, 200)
    await listensAgain(port)
    expect([guard.faultOf(fd), lines.length]).toEqual([null, 1])
  })

  it('has a fault while it cannot listen again, and none when a later check has mended it, each time', async () => {
    const port = await freePort()
    const { fd, guard } = guarded(`tcp://127.0.0.1:${port}`)
    const listen = vi.spyOn(native, 'listen')
    onTestFinished(() => void vi.restoreAllMocks())
    for (let time = 0; time < 2; time++) {
      listen.mockImplementationOnce(() => {
        throw new Error('no memory')
      })
      await shutDown(fd)
      await until('it has a fault', () => /cannot listen again: no memory/.test(guard.faultOf(fd) ?? ''))
      await until('it has none', () => guard.faultOf(fd) === null)
      expect(await reach({ port, host: '127.0.0.1' })).toBe('connected')
    }
  })
})

it('a listener that blocks stays so when it is watched, and listens again when a process shuts it down', async () => {
  const port = await freePort()
  const { fd, guard } = guarded(`tcp://127.0.0.1:${port}`)
  guard.remove(fd)
  setBlocking(fd, true)
  guard.add({ name: 'web', spec: parseListenerSpec(`tcp://127.0.0.1:${port}`), fd })
  expect(blocks(fd)).toBe(true)
  for (let i = 0; i < 2; i++) {
    await shutDown(fd)
    await listensAgain(port)
    expect(blocks(fd)).toBe(true)
  }
})

describe('the path of a Unix listener', () => {
  it('comes back with the same socket when a program removes it', async () => {
    const path = join(folder(), 'app.sock')
    const { guard, lines } = guarded(`unix:${path}`)
    rmSync(path)
    guard.check()
    expect(await reach({ path })).toBe('connected')
    expect(lines).toMatchObject([{ level: 'warn', text: expect.stringMatching(/was removed.*restored/) }])
  })

  it('comes back as soon as it is removed, again and again, and does not wait for the next check', async () => {
    vi.spyOn(globalThis, 'setInterval').mockReturnValue(setTimeout(() => {}).unref())
    onTestFinished(() => void vi.restoreAllMocks())
    const home = folder()
    const paths = ['app.sock', 'admin.sock'].map(name => join(home, name))
    for (const path of paths) guarded(`unix:${path}`)
    for (let i = 0; i < 3; i++)
      for (const path of paths) {
        await new Promise(resolve => setTimeout(resolve, 200))
        rmSync(path)
        await until(`${path} is back`, () => existsSync(path), 5_000)
        expect(await reach({ path })).toBe('connected')
      }
  })

  it('comes back after a program has removed it many times in a row', async () => {
    vi.spyOn(globalThis, 'setInterval').mockReturnValue(setTimeout(() => {}).unref())
    onTestFinished(() => void vi.restoreAllMocks())
    const path = join(folder(), 'app.sock')
    guarded(`unix:${path}`)
    for (let i = 0; i < 50; i++) {
      rmSync(path, { force: true })
      await new Promise(resolve => setTimeout(resolve, 3))
    }
    await until('the path is back', () => existsSync(path), 5_000)
  })

  it('shares one inotify instance with those of other guards in its folder', async () => {
    const home = folder()
    await noInotifyInstance()
    const paths = Array.from({ length: 20 }, (_, n) => join(home, `${n}.sock`))
    const guards = paths.map(path => guarded(`unix:${path}`).guard)
    // Each guard that is added replaces the instance.
    await until('one is left', () => inotifyInstances() === 1)
    guards[0]![Symbol.dispose]()
    rmSync(paths[7]!)
    await until('the path is back', () => existsSync(paths[7]!), 900)
    for (const guard of guards) guard[Symbol.dispose]()
    await noInotifyInstance()
  })

  it('leaves no inotify instance if the kernel cannot report what it has to say', async () => {
    await noInotifyInstance()
    const { guard } = guarded(`unix:${join(folder(), 'app.sock')}`)
    const createPoll = vi.spyOn(native, 'createPoll').mockImplementation(() => {
      throw native.failure(constants.errno.ENOSPC, 'epoll_ctl')
    })
    for (let n = 0; n < 3; n++) {
      guard.check()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    createPoll.mockRestore()
    await noInotifyInstance()
  })

  it('leads to the socket if another process has restored it first', () => {
    const path = join(folder(), 'app.sock')
    const { fd } = guarded(`unix:${path}`)
    expect(restorePath(fd, path)).toBe(true)
  })

  it('comes back although the kernel had no memory to watch the listener when it was added', async () => {
    const path = join(folder(), 'app.sock')
    const createPoll = vi.spyOn(native, 'createPoll').mockImplementationOnce(() => {
      throw native.failure(constants.errno.ENOSPC, 'epoll_ctl')
    })
    const { guard } = guarded(`unix:${path}`)
    rmSync(path)
    guard.check()
    expect(createPoll).toHaveBeenCalledTimes(2)
    createPoll.mockRestore()
    expect(await reach({ path })).toBe('connected')
  })

  it('counts as lost, once, if its second name was removed too', async () => {
    const home = folder()
    const { fd, guard, lines } = guarded(`unix:${join(home, 'app.sock')}`)
    for (const name of readdirSync(home)) rmSync(join(home, name))
    guard.check()
    expect(guard.faultOf(fd)).toBeNull()
    for (let i = 0; i < 3; i++) guard.check()
    expect(guard.faultOf(fd)).toMatch(/app\.sock was removed and cannot be restored: restart/)
    expect(lines).toMatchObject([{ level: 'error', text: 'clients cannot reach a listener' }])
  })

  it('stays with another program that has bound it', async () => {
    const home = folder()
    const path = join(home, 'app.sock')
    const { fd, guard } = guarded(`unix:${path}`)
    rmSync(path)
    const other = bindListener(parseListenerSpec(`unix:${path}`))
    onTestFinished(() => other.close())
    for (let i = 0; i < 2; i++) guard.check()
    expect(guard.faultOf(fd)).toMatch(/belongs to another program now/)
    expect(removeUnixPath(fd, parseListenerSpec(`unix:${path}`))).toBe(false)
    expect(readdirSync(home)).toEqual(['app.sock'])
  })

  it('counts again after it was moved away and back', () => {
    const path = join(folder(), 'app.sock')
    const { fd, guard } = guarded(`unix:${path}`)
    guard.keepsPaths = false
    renameSync(path, `${path}.away`)
    for (let i = 0; i < 2; i++) guard.check()
    expect(guard.faultOf(fd)).not.toBeNull()
    renameSync(`${path}.away`, path)
    guard.check()
    expect(guard.faultOf(fd)).toBeNull()
  })

  it('causes a report if its folder becomes a symbolic link to itself', () => {
    const home = join(folder(), 'home')
    mkdirSync(home)
    const { fd, guard, lines } = guarded(`unix:${join(home, 'app.sock')}`)
    renameSync(home, `${home}.away`)
    symlinkSync(home, home)
    for (let i = 0; i < 2; i++) guard.check()
    expect(guard.faultOf(fd)).toMatch(/cannot be restored/)
    expect(lines).toHaveLength(1)
  })

  it('has no second name, and is not restored, if another user chose it', () => {
    const home = folder()
    const path = join(home, 'app.sock')
    const guard = new ListenerGuard(SILENT)
    guard.keepsPaths = false
    const spec = parseListenerSpec(`unix:${path}`)
    const fd = bindListener(spec)
    onTestFinished(() => {
      guard[Symbol.dispose]()
      fd.close()
    })
    guard.add({ name: 'web', spec, fd })
    expect(readdirSync(home)).toEqual(['app.sock'])
    rmSync(path)
    guard.check()
    expect(existsSync(path)).toBe(false)
  })

  it('goes with its second name', () => {
    const home = folder()
    const spec = `unix:${join(home, 'app.sock')}`
    const { fd } = guarded(spec)
    expect(readdirSync(home)).toHaveLength(2)
    expect(removeUnixPath(fd, parseListenerSpec(spec))).toBe(true)
    expect(readdirSync(home)).toEqual([])
  })

  it('gets a second name although a killed process has left one', async () => {
    const home = folder()
    const path = join(home, 'app.sock')
    writeFileSync(join(home, '.app.sock.fd-broker'), '')
    const { guard } = guarded(`unix:${path}`)
    rmSync(path)
    guard.check()
    expect(await reach({ path })).toBe('connected')
  })
})

describe('a Unix listener that a process has shut down', () => {
  it('causes a report, because it cannot listen again; the next version of `run` gets a new socket', async () => {
    const path = join(folder(), 'app.sock')
    const spec = parseListenerSpec(`unix:${path}`)
    const lines: Line[] = []
    const error = (facts: object, text: string) => void lines.push({ ...facts, level: 'error', text })
    const guard = new ListenerGuard({ ...SILENT, error })
    using shared = new SharedListeners(new StoredListeners(null, 'shop'), [], null, guard)
    const wanted = [{ name: 'web', spec }]
    const [first] = shared.provide(wanted, true, true)
    await shutDown(first!.fd)
    const key = formatListenerSpec(spec)
    await until('it is noticed', () => shared.faultOf(key) !== null)
    expect(shared.faultOf(key)).toMatch(/has shut it down.*upgrade/)
    expect(lines).toHaveLength(1)
    expect(await reach({ path })).toBe('ECONNREFUSED')
    shared.provide(wanted, true, false)
    expect(await reach({ path })).toBe('connected')
    expect(shared.faultOf(key)).toBeNull()
  })
})
