import { describe, expect, it } from 'vitest'
import { native, READABLE, WRITABLE } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, thrown } from './support.js'

const keep = descriptors()
const byte = 'x'
const never = 5_000_000

function sent(fd: number, text: string): number {
  return native.send(fd, Buffer.from(text), 0, text.length, null, 0, 0)
}

function pair(): [number, number] {
  const made = native.socketPair()
  keep(made)
  return made
}

function epoll(): number {
  return keep(native.createEpoll()!)
}

/** Descriptors that are ready, each with its bits. */
function ready(from: number, room = 16): Map<number, number> {
  const into = new Int32Array(2 * room)
  const count = native.askEpoll(from, into)
  return new Map(Array.from({ length: count }, (_, i) => [into[2 * i]!, into[2 * i + 1]!]))
}

describe('epoll', () => {
  it('tells which are readable and writable, as long as they are', () => {
    const set = epoll()
    const [a, b] = pair()
    native.setEpoll(set, a, 0, READABLE)
    native.setEpoll(set, b, 0, READABLE | WRITABLE)
    expect(ready(set)).toEqual(new Map([[b, WRITABLE]]))
    sent(b, byte)
    const both = new Map([
      [a, READABLE],
      [b, WRITABLE],
    ])
    expect([ready(set), ready(set)]).toEqual([both, both])
    native.receive(a, Buffer.alloc(8), 0, 8)
    native.setEpoll(set, b, READABLE | WRITABLE, READABLE)
    expect(ready(set).size).toBe(0)
    expect(flagsOf(set) & CLOEXEC).toBe(CLOEXEC)
  })

  it('tells nothing of one for which nothing is wanted, also when it breaks', () => {
    const set = epoll()
    const [a, b] = pair()
    native.setEpoll(set, a, 0, READABLE)
    native.setEpoll(set, a, READABLE, 0)
    native.setEpoll(set, a, 0, 0)
    sent(b, byte)
    native.close(b)
    expect(ready(set).size).toBe(0)
  })

  it('says of a broken one that it can be read from and written to: either tells what is wrong', () => {
    const set = epoll()
    const [a, b] = pair()
    native.setEpoll(set, a, 0, WRITABLE)
    native.close(b)
    expect(ready(set)).toEqual(new Map([[a, READABLE | WRITABLE]]))
    expect(native.receive(a, Buffer.alloc(8), 0, 8)).toBe(0)
  })

  it('tells of as many as there is room for, and of the others next', () => {
    const set = epoll()
    const all = Array.from({ length: 8 }, pair)
    for (const [a] of all) native.setEpoll(set, a, 0, WRITABLE)
    const seen = new Set<number>()
    for (let i = 0; i < 4; i++) for (const fd of ready(set, 2).keys()) seen.add(fd)
    expect([...seen].sort()).toEqual(all.map(([a]) => a).sort())
  })

  it('throws what the kernel says, and what is wrong with its arguments', () => {
    const set = epoll()
    const [a] = pair()
    native.setEpoll(set, a, 0, READABLE)
    const refused = (call: () => unknown) => thrown(call)
    expect(refused(() => native.setEpoll(set, a, 0, READABLE))).toMatchObject({
      code: 'EEXIST',
      syscall: 'epoll_ctl',
    })
    expect(refused(() => native.setEpoll(set, never, 0, READABLE))).toMatchObject({ code: 'EBADF' })
    expect(refused(() => native.setEpoll(set, keep(native.memfd('m')), 0, READABLE))).toMatchObject({
      code: 'EPERM',
    })
    expect(refused(() => native.setEpoll(set, a, READABLE, 4))).toBeInstanceOf(RangeError)
    expect(refused(() => native.askEpoll(a, new Int32Array(2)))).toMatchObject({
      code: 'EINVAL',
      syscall: 'epoll_wait',
    })
    expect(refused(() => native.askEpoll(set, new Int32Array(1)))).toBeInstanceOf(RangeError)
    expect(refused(() => native.askEpoll(set, Buffer.alloc(8) as never))).toBeInstanceOf(TypeError)
  })
})
