import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { bindSocket, openLockFile, socketPair } from '../../../src/kernel/index.js'
import { parseListenerSpec, verifyIdentity } from '../../../src/listeners/index.js'
import { controlOf } from '../../../src/listeners/occupant.js'
import { startedAs } from '../../../src/os/command-line.js'
import { controlEntry, removeControl, takeLock } from '../../../src/os/control-path.js'
import { ownPidfd, pidfdNumber, watchDeath } from '../../../src/os/liveness.js'
import { fateOf, isSame, startTimeOf } from '../../../src/os/process-identity.js'
import { passedSockets } from '../../../src/os/service-manager/passed-sockets.js'
import { until } from '../../processes/until.js'

afterEach(() => void vi.useRealTimers())

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-process-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

describe('a process', () => {
  it('has no start time if it has ended and was not reaped: it is dead', async () => {
    const parent = spawn('/bin/sh', ['-c', 'sleep 0 & exec sleep 60'], { stdio: 'ignore' })
    onTestFinished(() => void parent.kill('SIGKILL'))
    const statOf = (pid: string) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
        return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      } catch {
        return []
      }
    }
    const zombie = await until('one has ended', () =>
      readdirSync('/proc').find(pid => {
        if (!/^\d+$/.test(pid)) return false
        const [state, of] = statOf(pid)
        return state === 'Z' && Number(of) === parent.pid
      }),
    )
    expect(startTimeOf(Number(zombie))).toBeNull()
    expect(startTimeOf(parent.pid!)).toMatch(/^\d+$/)
  })

  it('differs from a later one that has its number', () => {
    expect(isSame({ pid: 1, startTime: '1' }, { pid: 1, startTime: '2' })).toBe(false)
    expect(isSame({ pid: 1, startTime: '1' }, { pid: 1, startTime: '1' })).toBe(true)
  })

  it('needs no number if its own pidfd tells it', () => {
    using own = ownPidfd()
    expect(own === null ? null : pidfdNumber(own)).toBeNull()
  })

  it('dies only by a pidfd: a socket that is readable would look like its death', () => {
    const [one, other] = socketPair('no pidfd')
    expect(() => watchDeath(one, () => {})).toThrow(/EINVAL/)
    one.close()
    other.close()
  })

  it('counts as alive after the end of its channel only when it could have been told dead, 100 ms later', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    using own = ownPidfd()!
    let fate = ''
    void fateOf(own).then(of => {
      fate = of
    })
    await vi.advanceTimersByTimeAsync(90)
    expect(fate).toBe('')
    await vi.advanceTimersByTimeAsync(20)
    expect(fate).toBe('alive')
  })
})

describe('the path of a control socket', () => {
  it('stays where another process has the lock', () => {
    const path = join(folder(), 'control.sock')
    using socket = bindSocket({ kind: 'unix', host: path, backlog: 1 }, 'a')
    using theirs = takeLock(`${path}.lock`)!
    using lock = openLockFile(`${path}.lock`, 0o600, 'b')
    expect(removeControl({ path, entry: controlEntry(path)!, lock }, SILENT)).toBe(false)
    expect(existsSync(path)).toBe(true)
    expect(removeControl({ path, entry: controlEntry(path)!, lock: theirs }, SILENT)).toBe(true)
    expect(socket.closed).toBe(false)
  })

  it('leads to a process that has its lock open', () => {
    const path = join(folder(), 'control.sock')
    using socket = bindSocket({ kind: 'unix', host: path, backlog: 1 }, 'a')
    using lock = openLockFile(`${path}.lock`, 0o600, 'b')
    expect(controlOf(process.pid)).toBe(path)
    expect(socket.closed || lock.closed).toBe(false)
  })
})

describe('an arriving descriptor', () => {
  it('counts as another file where only the number of its inode is the same', () => {
    const file = { type: 'file', dev: '1', ino: '2' } as const
    expect(verifyIdentity(file, file)).toBeNull()
    expect(verifyIdentity(file, { ...file, dev: '3' })).toMatch(/on device 3/)
  })
})

describe('the specification of a listener', () => {
  it('has permissions of nine bits, and a path of as many bytes as the kernel takes', () => {
    expect(parseListenerSpec('unix:/a?mode=0777').mode).toBe(0o777)
    expect(() => parseListenerSpec('unix:/a?mode=1000')).toThrow(/mode/)
    expect(() => parseListenerSpec(`unix:/${'é'.repeat(60)}`)).toThrow(/121 bytes/)
  })
})

describe('sockets that were passed to another process', () => {
  it('stay unused by the process that inherits the variables', () => {
    const env = vi
      .spyOn(startedAs, 'env', 'get')
      .mockReturnValue({ LISTEN_FDS: '100', LISTEN_PID: `${process.ppid}`, LISTEN_FDNAMES: '' })
    onTestFinished(() => env.mockRestore())
    expect(passedSockets().unclaimed).toEqual([])
  })
})
