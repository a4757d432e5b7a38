import { type ChildProcess, fork, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import {
  acquireControl,
  closeControl,
  controlEntry,
  type FirstControl,
  releaseControl,
  removeControl,
} from '../../../src/os/control-path.js'
import { Channel } from '../../../src/wire/channel.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { bundled } from '../../processes/bundled.js'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-control-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

interface Answer {
  role?: string
  code?: string
  message?: string
  removed?: boolean
}

class Candidate {
  readonly process: ChildProcess
  readonly ready: Promise<unknown>

  constructor() {
    const { file, env } = bundled('host-candidate.ts')
    this.process = fork(file, { env, execArgv: [] })
    this.ready = once(this.process, 'message')
  }

  async order(order: object): Promise<Answer> {
    this.process.send(order)
    return (await once(this.process, 'message'))[0] as Answer
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    const gone = once(this.process, 'exit')
    this.process.kill('SIGKILL')
    await gone
  }
}

async function asFirst(path: string): Promise<FirstControl> {
  const control = await acquireControl(path)
  if (control.role !== 'first') throw new Error('expected to be first')
  return control
}

describe('the start-up race', () => {
  let two: Candidate[]
  beforeAll(async () => {
    two = [new Candidate(), new Candidate()]
    await Promise.all(two.map(candidate => candidate.ready))
  })
  afterAll(() => Promise.all(two.map(candidate => candidate.kill())))

  for (const state of ['a fresh path', 'the remains of a dead holder']) {
    it(`two processes that start at once on ${state}: exactly one is first, the other is connected to it`, async () => {
      for (let round = 0; round < 10; round++) {
        const path = join(folder, `s${round}`)
        if (state !== 'a fresh path') closeControl(await asFirst(path))
        const at = Date.now() + 10
        const answers = await Promise.all(two.map(candidate => candidate.order({ do: 'acquire', path, at })))
        expect(answers.map(answer => answer.role).sort()).toEqual(['first', 'next'])
        await Promise.all(two.map(candidate => candidate.order({ do: 'leave', remove: false })))
      }
    })
  }

  it('a process that waits becomes first when the holder of the lock dies', async () => {
    const path = join(folder, 's')
    const lock = OwnedFd.own(native.openLockFile(`${path}.lock`, 0o600), 'lock')
    expect(native.tryLock(lock.raw)).toBe(true)
    const answer = two[0]!.order({ do: 'acquire', path, at: 0 })
    await new Promise(resolve => setImmediate(resolve))
    lock.close()
    expect(await answer).toEqual({ role: 'first' })
    await two[0]!.order({ do: 'leave', remove: true })
    expect(existsSync(path)).toBe(false)
  })
})

describe('the control path', () => {
  it('fails with its own error in a folder in which files can be created, and not renamed or removed', async context => {
    const appendOnly = mkdtempSync(join(folder, 'append-only-'))
    const isMade = spawnSync('chattr', ['+a', appendOnly], { stdio: 'ignore' }).status === 0
    context.skip(!isMade, 'this user, or file system, has no append-only folders')
    try {
      await expect(acquireControl(join(appendOnly, 's'))).rejects.toMatchObject({
        code: 'ERR_FDB_CONTROL_PATH',
        message: expect.stringMatching(/^cannot bind the control socket .* \(EPERM\): give this user/),
      })
    } finally {
      spawnSync('chattr', ['-a', appendOnly])
    }
  })

  it('has mode 0600 in a folder 0700 that is created, one level', async () => {
    const path = join(folder, 'run', 'control.sock')
    const control = await asFirst(path)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(statSync(join(folder, 'run')).mode & 0o777).toBe(0o700)
    expect(existsSync(`${path}~`)).toBe(false)
    closeControl(control)
    await expect(acquireControl(join(folder, 'no', 'such', 's'))).rejects.toMatchObject({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringContaining('create its parent folder first'),
    })
  })

  it('passes on from a killed process at once', async () => {
    const path = join(folder, 's')
    const candidate = new Candidate()
    await candidate.ready
    expect(await candidate.order({ do: 'acquire', path, at: 0 })).toEqual({ role: 'first' })
    const next = await acquireControl(path)
    expect(next.role).toBe('next')
    if (next.role === 'next') next.channel.close()
    await candidate.kill()
    expect(existsSync(path)).toBe(true)
    closeControl(await asFirst(path))
  })

  it('stays held through a dup of the lock that crossed to another process, after the first died', async () => {
    const path = join(folder, 's')
    const meeting = OwnedFd.own(
      native.bindSocket({ kind: 'unix', host: join(folder, 'm'), backlog: 4 }),
      'meeting',
    )
    const listener = new ControlListener(meeting)
    const passed = new Promise<OwnedFd[]>(resolve => {
      listener.start(fd => new Channel(fd).start({ message: (_, fds) => resolve(fds), end: () => {} }))
    })
    const candidate = new Candidate()
    await candidate.ready
    await candidate.order({ do: 'acquire', path, at: 0 })
    await candidate.order({ do: 'pass', to: join(folder, 'm') })
    const [control, lock] = await passed
    await candidate.kill()

    const next = await acquireControl(path)
    expect(next.role).toBe('next')
    if (next.role === 'next') next.channel.close()
    const entry = controlEntry(path)!
    expect(removeControl({ path, entry, lock: lock! }, SILENT)).toBe(true)
    closeAll([control!, lock!])
    closeControl(await asFirst(path))
    listener.stop()
    meeting.close()
  })

  it('stays with a live process that listens there without the lock, and the error names it', async () => {
    const path = join(folder, 's')
    const script = `require('net').createServer(() => {}).listen(${JSON.stringify(path)}, () => console.log('up'))`
    const foreign = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    await once(foreign.stdout!, 'data')
    await expect(acquireControl(path)).rejects.toMatchObject({
      code: 'ERR_FDB_FOREIGN',
      message: expect.stringContaining(`pid ${foreign.pid}`),
    })
    const gone = once(foreign, 'exit')
    foreign.kill('SIGKILL')
    await gone
    closeControl(await asFirst(path))
  })

  it('stays closed to a second process where only the lock file told of the first, and that was removed', async () => {
    const path = join(folder, 's')
    const control = await asFirst(path)
    control.reservation?.close()
    unlinkSync(`${path}.lock`)
    await expect(acquireControl(path)).rejects.toMatchObject({
      code: 'ERR_FDB_FOREIGN',
      details: { pid: process.pid },
    })
    expect((await Channel.connect(path)).close()).toBeInstanceOf(Promise)
    closeControl(control)
  })

  it('leaves a file that is no socket, and follows no link for the lock', async () => {
    const path = join(folder, 'file')
    writeFileSync(path, 'precious')
    await expect(acquireControl(path)).rejects.toMatchObject({ code: 'ERR_FDB_CONTROL_PATH' })
    expect(statSync(path).size).toBe(8)
    symlinkSync(path, join(folder, 's.lock'))
    await expect(acquireControl(join(folder, 's'))).rejects.toMatchObject({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringContaining('symbolic link'),
    })
  })

  it('a holder that is stuck before it binds: the deadline names path and lock', async () => {
    const path = join(folder, 's')
    const lock = OwnedFd.own(native.openLockFile(`${path}.lock`, 0o600), 'lock')
    native.tryLock(lock.raw)
    await expect(acquireControl(path, { timeoutMs: 30 })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      details: { path, lock: `${path}.lock`, ms: 30, state: 'absent' },
    })
    const reason = new Error('stop')
    await expect(acquireControl(path, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    lock.close()
  })

  it('goes only while it still has the bound socket', async () => {
    const path = join(folder, 's')
    const control = await asFirst(path)
    unlinkSync(path)
    expect(removeControl(control, SILENT)).toBe(false)
    const other = OwnedFd.own(native.bindSocket({ kind: 'unix', host: path, backlog: 1 }), 'other')
    expect(removeControl(control, SILENT)).toBe(false)
    expect(existsSync(path)).toBe(true)
    closeControl(control)
    other.close()
  })

  it('closes with its descriptors where its path cannot be removed, with an error', async () => {
    const run = join(folder, 'run')
    const control = await asFirst(join(run, 's'))
    // No user can look into it, root neither.
    renameSync(run, join(folder, 'moved'))
    symlinkSync(run, run)
    const told: object[] = []
    releaseControl(control, { ...SILENT, warn: facts => told.push(facts) })
    expect(told).toMatchObject([{ err: { code: 'ERR_FDB_CONTROL_PATH' }, control: control.path }])
    expect([control.listener.closed, control.lock.closed]).toEqual([true, true])
  })

  it('leaks nothing, whatever the outcome', async () => {
    const before = native.openCount()
    const path = join(folder, 's')
    const control = await asFirst(path)
    const next = await acquireControl(path)
    if (next.role === 'next') next.channel.close()
    control.lock.close()
    control.reservation?.close()
    await expect(acquireControl(path, { timeoutMs: 30 })).rejects.toMatchObject({ code: 'ERR_FDB_FOREIGN' })
    control.listener.close()
    expect(native.openCount()).toBe(before)
  })
})
