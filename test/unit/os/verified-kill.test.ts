import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { identify, killVerified } from '../../../src/os/process-identity.js'
import { until } from '../../processes/until.js'

/** A process that does nothing. */
async function sleeper() {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child, 'spawn')
  return child
}

describe('a process that is killed', () => {
  it('equals the one that was meant', async () => {
    const child = await sleeper()
    const over = once(child, 'exit')
    const open = native.openCount()
    killVerified(identify(child.pid!), null)
    expect(native.openCount()).toBe(open)
    expect(await over).toEqual([null, 'SIGKILL'])
  })

  it('never equals a later one that has its number', async () => {
    const child = await sleeper()
    killVerified({ ...identify(child.pid!), startTime: '1' }, null)
    await new Promise(resolve => setTimeout(resolve, 50))
    expect(child.exitCode ?? child.signalCode).toBeNull()
  })

  it('may have ended already: that is no error', async () => {
    const child = await sleeper()
    const identity = identify(child.pid!)
    const pidfd = openPidfd(child.pid!)
    if (!(pidfd instanceof OwnedFd)) return
    child.kill('SIGKILL')
    await until('it has ended', () => child.signalCode !== null)
    expect(() => killVerified(identity, pidfd)).not.toThrow()
    pidfd.close()
  })

  it('cannot be one that is not seen from here', () => {
    expect(() => killVerified({ pid: 1 }, null)).toThrow(/end it manually/)
  })
})
