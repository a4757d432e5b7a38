import net from 'node:net'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptorOf } from '../../src/node/socket-handle.js'
import { descriptors, thrown } from './support.js'

const keep = descriptors()
const into = Buffer.alloc(16)
const never = 5_000_000

function sent(fd: number, text: string): number {
  return native.send(fd, Buffer.from(text), 0, text.length, null, 0, 0)
}

function pair(): [number, number] {
  const made = native.socketPair()
  keep(made)
  return made
}

/** Both sides of a TCP connection; the first is a duplicate, and Node has closed its own. */
async function tcp(): Promise<[number, net.Socket]> {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const accepted = new Promise<net.Socket>(resolve => server.once('connection', resolve))
  const peer = net.connect({ port: (server.address() as net.AddressInfo).port, host: '127.0.0.1' })
  const socket = await accepted
  const fd = keep(native.dup(descriptorOf(socket)!))
  socket.destroy()
  server.close()
  return [fd, peer]
}

describe('receive', () => {
  it('gives what has come into a part of the memory, -1 when nothing has, and 0 at the end', () => {
    const [a, b] = pair()
    into.fill('.')
    expect(native.receive(b, into, 0, 16)).toBe(-1)
    sent(a, 'bytes')
    expect([native.receive(b, into, 2, 3), native.receive(b, into, 8, 8)]).toEqual([3, 2])
    expect(into.toString()).toBe('..byt...es......')
    native.shutDown(a)
    expect([native.receive(b, into, 0, 16), sent(b, 'x')]).toEqual([0, 1])
  })

  it('throws what the kernel says, and what is wrong with its arguments', () => {
    const [a] = pair()
    expect(thrown(() => native.receive(never, into, 0, 1))).toMatchObject({ code: 'EBADF', syscall: 'recv' })
    expect(thrown(() => native.receive(a, into, 0, 0))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.receive(a, into, 16, 1))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.receive(a, 'x' as never, 0, 1))).toBeInstanceOf(TypeError)
  })
})

it('peek gives what has come, and leaves it there', () => {
  const [a, b] = pair()
  into.fill('.')
  expect(native.peek(b, into, 0, 16)).toBe(-1)
  sent(a, 'bytes')
  expect([native.peek(b, into, 0, 3), native.peek(b, into, 3, 9), native.receive(b, into, 8, 8)]).toEqual([
    3, 5, 5,
  ])
  expect(into.toString()).toBe('bytbytesbytes...')
  native.shutDown(a)
  expect(native.peek(b, into, 0, 16)).toBe(0)
  expect(thrown(() => native.peek(never, into, 0, 1))).toMatchObject({ code: 'EBADF', syscall: 'recv' })
})

describe('the end of a connection', () => {
  it('shows as FIN, which may be asked for again, also when both sides have ended', async () => {
    const [fd, peer] = await tcp()
    native.shutDown(fd)
    peer.resume()
    await new Promise(resolve => peer.once('close', resolve))
    while (native.receive(fd, into, 0, 16) !== 0);
    native.shutDown(fd)
    native.shutDown(fd)
    expect(thrown(() => native.shutDown(never))).toMatchObject({ code: 'EBADF', syscall: 'shutdown' })
  })

  it('shows as RST when that is asked for', async () => {
    const [fd, peer] = await tcp()
    const ended = new Promise<string | undefined>(resolve => {
      peer.once('error', (error: NodeJS.ErrnoException) => resolve(error.code))
      peer.once('end', () => resolve('FIN'))
    })
    peer.resume()
    native.resetAtClose(fd)
    native.close(fd)
    expect(await ended).toBe('ECONNRESET')
    expect(thrown(() => native.resetAtClose(never))).toMatchObject({ code: 'EBADF', syscall: 'setsockopt' })
  })
})
