import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptorOf, sendBypassingQueue } from '../../src/node/socket-handle.js'
import { descriptors, thrown } from './support.js'

const keep = descriptors()
const bytes = Buffer.from('0123456789')

function pair(): [number, number] {
  const made = native.socketPair()
  keep(made)
  return made
}

function received(fd: number): string {
  const into = Buffer.alloc(4096)
  return into.toString('latin1', 0, Math.max(0, native.receiveMessage(fd, into, 0, into.length).bytes))
}

describe('send', () => {
  it('sends a range of bytes, and a range of others behind them', () => {
    const [a, b] = pair()
    const sent = [
      native.send(a, bytes, 1, 2, bytes, 2, 3),
      native.send(a, bytes, 5, 5, null, 0, 0),
      native.send(a, bytes, 0, 0, bytes, 9, 1),
      native.send(a, bytes, 10, 0, bytes, 4, 0),
    ]
    expect([sent, received(b)]).toEqual([[5, 5, 1, 0], '12234567899'])
  })

  it.each([4095, 4096, 4097, 60_000])('sends %d bytes of two kinds in one go', length => {
    const [a, b] = pair()
    const body = Buffer.alloc(length - 10, 'x')
    expect(native.send(a, bytes, 0, 10, body, 0, body.length)).toBe(length)
    let all = ''
    while (all.length < length) all += received(b)
    expect(all).toBe(`0123456789${'x'.repeat(length - 10)}`)
  })

  it('says how many the kernel took, and -1 when it takes none', () => {
    const [a] = pair()
    const much = Buffer.alloc(1 << 20)
    const first = native.send(a, bytes, 0, 1, much, 0, much.length)
    expect(first).toBeGreaterThan(0)
    while (native.send(a, much, 0, much.length, null, 0, 0) > 0);
    expect([native.send(a, bytes, 0, 1, much, 0, 9), native.send(a, bytes, 0, 1, null, 0, 0)]).toEqual([
      -1, -1,
    ])
  })

  it('throws what the kernel says, and what is wrong with its arguments', () => {
    const [a, b] = pair()
    native.close(b)
    expect(thrown(() => native.send(a, bytes, 0, 1, null, 0, 0))).toMatchObject({
      code: 'EPIPE',
      syscall: 'send',
    })
    expect(thrown(() => native.send(a, 'x' as never, 0, 1, null, 0, 0))).toBeInstanceOf(TypeError)
    expect(thrown(() => native.send(a, bytes, 5, 6, null, 0, 0))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.send(a, bytes, 0, 1, bytes, 5, 6))).toBeInstanceOf(RangeError)
  })
})

describe('bytes that are sent past a socket', () => {
  it('never goes to another that has its number since it was closed', async () => {
    const server = net.createServer({ allowHalfOpen: true }, peer => {
      onTestFinished(() => void peer.destroy())
    })
    server.listen(0, '127.0.0.1')
    await new Promise(resolve => server.once('listening', resolve))
    const socket = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    await new Promise(resolve => socket.once('connect', resolve))
    const number = descriptorOf(socket)
    expect(sendBypassingQueue(socket, bytes)).toBe(true)
    socket.destroy()
    const [a, b] = pair()
    // The kernel gives the lowest number that is free.
    let other = Math.max(a, b)
    while (other < number!) other = keep(native.dup(a))
    expect([a, b, other]).toContain(number)
    expect([sendBypassingQueue(socket, bytes), received(a), received(b)]).toEqual([false, '', ''])
    server.close()
  })
})
