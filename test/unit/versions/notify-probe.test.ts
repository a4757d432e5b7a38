import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { receiveMessage, socketPair } from '../../../src/kernel/index.js'
import { NotifySocket } from '../../../src/os/service-manager/notify-socket.js'
import { NotifyProbe } from '../../../src/versions/version-probe.js'
import { needsRoot, SecondUser } from '../../processes/second-user.js'
import { until } from '../../processes/until.js'

/** The messages that a version of this pid is known to have sent. */
function heard(pid: number) {
  const probe = new NotifyProbe()
  onTestFinished(() => probe[Symbol.dispose]())
  const told: string[] = []
  probe.start(pid, {
    ready: () => told.push('ready'),
    failed: why => told.push(why),
    recovered() {},
    statusText: text => told.push(text),
    mainProcess: main => told.push(`main ${main}`),
  })
  const path = probe.env.NOTIFY_SOCKET!
  const own = NotifySocket.of({ NOTIFY_SOCKET: path }, error => told.push(String(error)))!
  return { path, told, own }
}

describe('messages at the notify socket of a version', () => {
  it('counts from this user and from the version, not from another user', async context => {
    needsRoot(context)
    const [foreign, version] = await Promise.all([SecondUser.start(), SecondUser.start(12_002)])
    const { path, told, own } = heard(version.pid)
    await foreign.notifies(path, `READY=1\nSTATUS=not the version\nMAINPID=${foreign.pid}`)
    own.send({ STATUS: 'of root' })
    await until('root is heard', () => told.length > 0)
    expect(told).toEqual(['of root'])
    // The version has become another user since it was started.
    expect(await version.notifies(path, 'READY=1')).toBe('done')
    await until('the version is heard', () => told.includes('ready'))
    await foreign.notifies(path, 'READY=1')
    own.send({ STATUS: 'last' })
    await until('root is heard again', () => told.includes('last'))
    expect(told).toEqual(['of root', 'ready', 'last'])
  })

  it('comes without its descriptors: those are closed, for which the sender of BARRIER=1 waits', async () => {
    const { told, own } = heard(process.pid)
    const [kept, given] = socketPair('a barrier')
    onTestFinished(() => kept.close())
    own.send({ BARRIER: 1 }, given)
    own.send({ STATUS: 'behind it' })
    await until('what comes behind it is heard', () => told.length > 0)
    given.close()
    // The end of the socket: no process has the other end any more.
    expect(receiveMessage(kept, Buffer.alloc(1)).bytes).toBe(0)
  })

  it('comes over a socket that no more users can reach than a version may be', () => {
    const { path } = heard(process.pid)
    const root = process.getuid?.() === 0
    expect((statSync(path).mode & 0o777).toString(8)).toBe(root ? '666' : '600')
    expect((statSync(dirname(path)).mode & 0o777).toString(8)).toBe(root ? '711' : '700')
  })
})
