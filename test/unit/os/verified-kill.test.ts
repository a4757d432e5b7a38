import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { identify, isAlive, killVerified } from '../../../src/os/process-identity.js'
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

/** The main thread of this program ends, and the kernel then shows the process as a zombie; another thread runs until it reads its input. */
const OUTLIVED = `
import ctypes, os, threading
def rest():
    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z': pass
    print('alone', flush=True)
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
`

describe('a process whose main thread has ended', () => {
  it('lives as long as its other threads, and is the same as before', async () => {
    const child = spawn('python3', ['-c', OUTLIVED])
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const before = identify(child.pid!)
    await once(child.stdout, 'data')
    expect([identify(child.pid!), isAlive(before)]).toEqual([before, true])
    expect(before.startTime).toBeDefined()
    const over = once(child, 'exit')
    child.stdin.end()
    await over
    expect(isAlive(before)).toBe(false)
  })
})
