import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { release } from 'node:os'
import { afterEach, describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, thrown } from './support.js'

const keep = descriptors()
const children: ChildProcess[] = []

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

function sleeper(): ChildProcess {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  children.push(child)
  return child
}

function pidfdOf(pid: number): number {
  const fd = native.pidfdOpen(pid)
  if (fd === null) throw new Error('this kernel has no pidfd')
  return keep(fd)
}

describe('hangups', () => {
  it('tells who has ended, who is gone, and who is there', async () => {
    const pairs = [0, 1, 2].map(() => keep(native.socketPair()))
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [accepted] = (await once(server, 'connection')) as [Socket]
    const fd = (accepted as unknown as { _handle: { fd: number } })._handle.fd
    const ours = [...pairs.map(([a]) => a!), fd]
    expect(native.hangups(ours)).toEqual([0, 0, 0, 0])
    client.end()
    native.close(pairs[1]![1]!)
    native.sendMessage(pairs[2]![1]!, Buffer.from('x'), 0, 1, null)
    await expect.poll(() => native.hangups(ours)).toEqual([0, 1, 0, 1])
    client.resetAndDestroy()
    await expect.poll(() => native.hangups(ours)).toEqual([0, 1, 0, 2])
    accepted.destroy()
    server.close()
    expect(native.hangups([])).toEqual([])
    expect(thrown(() => native.hangups([99_999]))).toMatchObject({ code: 'EBADF', syscall: 'poll' })
  })
})

describe('peerCredentials', () => {
  it('names the process at the other end', () => {
    const [a] = keep(native.socketPair())
    expect(native.peerCredentials(a!)).toEqual({
      pid: process.pid,
      uid: process.getuid!(),
      gid: process.getgid!(),
    })
    expect(thrown(() => native.peerCredentials(99_999))).toMatchObject({ code: 'EBADF' })
    expect(thrown(() => native.peerCredentials(keep(native.memfd('m'))))).toMatchObject({ code: 'ENOTSOCK' })
  })
})

it('unreadBytes counts what the peer of a Unix socket has not read', () => {
  const [a, b] = keep(native.socketPair()) as [number, number]
  expect(native.unreadBytes(a)).toBe(0)
  native.sendMessage(a, Buffer.alloc(100), 0, 100, [])
  const one = native.unreadBytes(a)
  expect(one).toBeGreaterThanOrEqual(100)
  native.sendMessage(a, Buffer.alloc(100), 0, 100, [])
  expect(native.unreadBytes(a)).toBe(2 * one)
  expect(native.unreadBytes(b)).toBe(0)
  native.receiveMessage(b, Buffer.alloc(1_000), 0, 1_000)
  expect(native.unreadBytes(a)).toBe(0)
  const file = openSync('/dev/null', 'r')
  expect(thrown(() => native.unreadBytes(file))).toMatchObject({ code: 'ENOTTY', syscall: 'ioctl' })
  closeSync(file)
})

it('ackedBytes counts what the peer of a TCP socket has acknowledged, and knows no other kind', async () => {
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, '127.0.0.1')
  const [accepted] = (await once(server, 'connection')) as [Socket]
  const { fd } = (client as unknown as { _handle: { fd: number } })._handle
  const before = native.ackedBytes(fd)!
  client.write(Buffer.alloc(1000))
  await expect.poll(() => native.ackedBytes(fd)! - before).toBe(1000)
  client.destroy()
  accepted.destroy()
  server.close()
  const [a] = keep(native.socketPair())
  expect(native.ackedBytes(a!)).toBeNull()
  expect(thrown(() => native.ackedBytes(99_999))).toMatchObject({ code: 'EBADF', syscall: 'getsockopt' })
})

describe('pidfds', () => {
  it('follow a process from life to death', async () => {
    const child = sleeper()
    await once(child, 'spawn')
    const fd = pidfdOf(child.pid!)
    expect(native.pidfdPid(fd)).toBe(child.pid)
    expect(native.pidfdDead(fd)).toBe(false)
    native.pidfdSignal(fd, 0)
    const exit = once(child, 'exit')
    native.pidfdSignal(fd, 9)
    expect((await exit)[1]).toBe('SIGKILL')
    expect(native.pidfdDead(fd)).toBe(true)
    expect(native.pidfdPid(fd)).toBe(-1)
    expect(thrown(() => native.pidfdSignal(fd, 0))).toMatchObject({
      code: 'ESRCH',
      syscall: 'pidfd_send_signal',
    })
  })

  it('become readable when the process ends', async () => {
    const child = sleeper()
    await once(child, 'spawn')
    const fd = pidfdOf(child.pid!)
    const events = await new Promise<number>((resolve, reject) => {
      const poll = native.createPoll(fd, (seen, error) => {
        poll.close()
        if (error === null) resolve(seen)
        else reject(error)
      })
      poll.start(1)
      child.kill('SIGKILL')
    })
    expect(events & 1).toBe(1)
    expect(native.pidfdDead(fd)).toBe(true)
  })

  it('give dups of what the process has open, closed when this process executes another', async () => {
    const script =
      "const s = require('net').createServer().listen(0, '127.0.0.1', () => console.log(s._handle.fd, s.address().port))"
    const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    const [said] = await once(child.stdout!.setEncoding('utf8'), 'data')
    const [number, port] = String(said).split(' ').map(Number)
    const fd = pidfdOf(child.pid!)
    const taken = keep(native.pidfdTake(fd, number!))
    expect(native.inspect([taken])[0]).toMatchObject({ accepting: true, address: '127.0.0.1', port })
    expect(flagsOf(taken) & CLOEXEC).toBe(CLOEXEC)
    expect(thrown(() => native.pidfdTake(fd, 4_000))).toMatchObject({ code: 'EBADF', syscall: 'pidfd_getfd' })
    expect(thrown(() => native.pidfdTake(fd, -1))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.pidfdTake(99_999, 1))).toMatchObject({ code: 'EBADF' })
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
    expect(thrown(() => native.pidfdTake(fd, number!))).toMatchObject({ code: 'ESRCH' })
    // The taken connection outlives the listener and its queue.
    expect(native.inspect([taken])[0]).toMatchObject({ accepting: true })
  })

  it('of the peer come from the socket', () => {
    const [a] = keep(native.socketPair())
    const fd = native.peerPidfd(a!)
    const [major, minor] = release().split('.').map(Number) as [number, number]
    expect(fd !== null, release()).toBe(major > 6 || (major === 6 && minor >= 5))
    if (fd === null) return
    expect(native.pidfdPid(keep(fd))).toBe(process.pid)
    const udp = keep(native.bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }))
    expect(thrown(() => native.peerPidfd(udp))).toMatchObject({ syscall: 'getsockopt' })
  })

  it('cannot be had for nobody, and are not mistaken for other files', () => {
    expect(thrown(() => native.pidfdOpen(2 ** 22 + 1))).toMatchObject({ syscall: 'pidfd_open' })
    expect(thrown(() => native.pidfdOpen(0))).toBeInstanceOf(RangeError)
    const file = openSync('/dev/null', 'r')
    expect(thrown(() => native.pidfdPid(file))).toMatchObject({ code: 'EINVAL', syscall: 'fdinfo' })
    closeSync(file)
    expect(thrown(() => native.pidfdPid(99_999))).toMatchObject({ code: 'EBADF' })
    expect(thrown(() => native.pidfdDead(99_999))).toMatchObject({ code: 'EBADF', syscall: 'poll' })
    expect(thrown(() => native.pidfdSignal(99_999, 0))).toMatchObject({ code: 'EBADF' })
  })
})
