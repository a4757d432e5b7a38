import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { endsWithin, ownPidfd, watchDeath } from '../../../src/os/liveness.js'
import { fateOf, isEnding } from '../../../src/os/process-identity.js'
import { ZombieReaper } from '../../../src/versions/child-processes.js'

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

/** Whether a process can write to the FIFO. */
function isOpen(fifo: number): boolean {
  try {
    return readSync(fifo, Buffer.alloc(1)) > 0
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EAGAIN'
  }
}
