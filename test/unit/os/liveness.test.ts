import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { endsWithin, ownPidfd, watchDeath } from '../../../src/os/liveness.js'
import { fateOf, isEnding } from '../../../src/os/process-identity.js'
import { ZombieReaper } from '../../../src/versions/child-processes.js'
import { PidNamespace } from '../../processes/namespace.js'
import { has } from '../../processes/toolchains.js'
import { until } from '../../processes/until.js'

const children: ChildProcess[] = []
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

/** Holds the event loop until the process has ended and `ms` have passed, as a SIGSTOP of this process does. */
function busyUntilDead(pidfd: OwnedFd, ms: number): void {
  const end = performance.now() + ms
  while (!native.pidfdDead(pidfd.raw) || performance.now() < end);
}

async function sleeper(): Promise<{ child: ChildProcess; pidfd: OwnedFd }> {
  const child = spawn('sleep', ['60'])
  children.push(child)
  await once(child, 'spawn')
  return { child, pidfd: OwnedFd.own(native.pidfdOpen(child.pid!)!, 'child') }
}

describe('the end of a process', () => {
  it('reaches its watch once, also several watches of one pidfd that is closed meanwhile', async () => {
    const before = native.openCount()
    const { child, pidfd } = await sleeper()
    let told = 0
    const both = new Promise<void>(resolve => {
      const onDead = () => ++told === 2 && resolve()
      watchDeath(pidfd, onDead)
      expect(watchDeath(pidfd, onDead).dead).toBe(false)
    })
    pidfd.close()
    child.kill('SIGKILL')
    await both
    expect(native.openCount()).toBe(before)
  })

  it('reaches a watch of a process that was dead before, but not before the call returns', async () => {
    const { child, pidfd } = await sleeper()
    child.kill('SIGKILL')
    await once(child, 'exit')
    let told = false
    await new Promise<void>(resolve => {
      const watch = watchDeath(pidfd, () => {
        told = true
        resolve()
      })
      expect(watch.dead).toBe(true)
      expect(told).toBe(false)
    })
    pidfd.close()
  })

  it('counts at the limit of a wait in which this process was stopped', async () => {
    const { child, pidfd } = await sleeper()
    const ends = endsWithin(pidfd, 10)
    child.kill('SIGKILL')
    busyUntilDead(pidfd, 20)
    expect(await ends).toBe(true)
    pidfd.close()
  })

  it('reaches no watch that was closed', async () => {
    const { child, pidfd } = await sleeper()
    const watch = watchDeath(pidfd, () => expect.unreachable('closed'))
    watch.close()
    watch.close()
    child.kill('SIGKILL')
    await once(child, 'exit')
    pidfd.close()
  })

  it('our own pidfd is alive', () => {
    const own = ownPidfd()!
    expect(native.pidfdDead(own.raw)).toBe(false)
    own.close()
  })
})

describe('fateOf', () => {
  it('holds nothing when it has answered', async () => {
    const { pidfd } = await sleeper()
    const before = native.openCount()
    expect(await fateOf(pidfd, 1)).toBe('alive')
    expect(native.openCount()).toBe(before)
    pidfd.close()
  })

  it('gives dead as soon as the kernel says so, alive only after the grace', async () => {
    const { child, pidfd } = await sleeper()
    const before = performance.now()
    expect(await fateOf(pidfd, 30)).toBe('alive')
    expect(performance.now() - before).toBeGreaterThanOrEqual(29)
    child.kill('SIGKILL')
    const killed = performance.now()
    expect(await fateOf(pidfd, 10_000)).toBe('dead')
    expect(performance.now() - killed).toBeLessThan(5000)
    pidfd.close()
  })

  it('gives dead for a process that died while this one was stopped for longer than the grace', async () => {
    for (const byPid of [false, true]) {
      const { child, pidfd } = await sleeper()
      const fate = fateOf(byPid ? child.pid! : pidfd, 10)
      child.kill('SIGKILL')
      busyUntilDead(pidfd, 20)
      expect(await fate).toBe('dead')
      pidfd.close()
    }
  })

  it.skipIf(process.getuid?.() !== 0 || !has('unshare') || !has('python3'))(
    'gives dead for PID 1 of a namespace that waits for its last child, with its descriptors closed',
    async () => {
      const { pidfd, closed } = await slowToEnd()
      expect(await fateOf(pidfd, 1)).toBe('alive')
      closed()
      expect(await fateOf(pidfd, 1)).toBe('dead')
      expect(native.pidfdDead(pidfd.raw)).toBe(false)
      pidfd.close()
    },
  )

  it('judges by pid where there is no pidfd, and never calls an unknown one dead', async () => {
    const { child } = await sleeper()
    expect(await fateOf(child.pid!, 20)).toBe('alive')
    expect(await fateOf(0, 20)).toBe('alive')
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await fateOf(child.pid!, 10_000)).toBe('dead')
  })
})

it('a child of Node that has just ended is left to Node, which hears of its code', async () => {
  const reaped: number[] = []
  const orphans = new ZombieReaper(pid => reaped.push(pid))
  const child = spawn('/bin/sh', ['-c', 'exit 3'])
  children.push(child)
  const exited = once(child, 'exit')
  // Node looks for its children between two turns only.
  const late = performance.now() + 10_000
  while (!isZombie(child.pid!)) expect(performance.now()).toBeLessThan(late)
  expect([orphans.reap(), orphans.isWaiting]).toEqual([true, true])
  expect(reaped).toEqual([])
  expect((await exited)[0]).toBe(3)
})

function isZombie(pid: number): boolean {
  return /\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1'))
}

describe('isEnding', () => {
  it.skipIf(!has('python3'))(
    'takes a process whose main thread alone has ended for one that lives',
    async () => {
      const child = spawn('python3', ['-c', WITHOUT_MAIN_THREAD], { stdio: ['ignore', 'pipe', 'inherit'] })
      children.push(child)
      await once(child.stdout!, 'data')
      await until('its main thread has ended', () =>
        readFileSync(`/proc/${child.pid}/stat`, 'latin1').includes(') Z '),
      )
      const pidfd = OwnedFd.own(native.pidfdOpen(child.pid!)!, 'child')
      expect(isEnding(pidfd)).toBe(false)
      pidfd.close()
    },
  )

  it('sees a killed process as soon as the kernel has closed its descriptors', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-ending-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const fifo = join(folder, 'fifo')
    execFileSync('mkfifo', [fifo])
    for (let round = 0; round < 20; round++) {
      const end = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
      const held = openSync(fifo, 'w')
      const child = spawn('sleep', ['60'], { stdio: ['ignore', held, 'ignore'] })
      children.push(child)
      await once(child, 'spawn')
      closeSync(held)
      const pidfd = OwnedFd.own(native.pidfdOpen(child.pid!)!, 'child')
      expect(isEnding(pidfd)).toBe(false)
      child.kill('SIGKILL')
      while (isOpen(end));
      expect(isEnding(pidfd)).toBe(true)
      closeSync(end)
      pidfd.close()
    }
  })
})

/** The main thread has ended, and another one runs on. */
const WITHOUT_MAIN_THREAD = `import ctypes, threading, time
threading.Thread(target=lambda: time.sleep(60)).start()
print(1, flush=True)
ctypes.CDLL(None).pthread_exit(None)`

/** Traces a process, whose end its parent then does not hear of. */
const TRACES = `import ctypes, sys, time
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0 # PTRACE_SEIZE
print(1, flush=True)
time.sleep(60)`

/** PID 1 of a namespace; `closed()` kills it, and returns when the kernel has closed its descriptors: it ends only after its child. */
async function slowToEnd(): Promise<{ pidfd: OwnedFd; closed: () => void }> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-slow-end-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const fifo = join(folder, 'fifo')
  execFileSync('mkfifo', [fifo])
  const end = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  const log = join(folder, 'log')
  const command = ['sh', '-c', `sleep 60 & exec sleep 61 > ${fifo}`]
  const namespace = await PidNamespace.start(command, { env: process.env, log })
  const child = await until('it has its child', () => namespace.processes.get(2))
  await until('it has its descriptor', () => readlinkSync(`/proc/${namespace.init}/fd/1`) === fifo)
  const tracer = spawn('python3', ['-c', TRACES, `${child}`], { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(tracer)
  await once(tracer.stdout!, 'data')
  onTestFinished(async () => {
    tracer.kill('SIGKILL')
    await namespace.exit
  })
  const closed = () => {
    process.kill(namespace.init, 'SIGKILL')
    while (isOpen(end));
    closeSync(end)
  }
  return { pidfd: OwnedFd.own(native.pidfdOpen(namespace.init)!, 'PID 1'), closed }
}

/** Whether a process can write to the FIFO. */
function isOpen(fifo: number): boolean {
  try {
    return readSync(fifo, Buffer.alloc(1)) > 0
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EAGAIN'
  }
}
