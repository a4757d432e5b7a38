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

/** The same of TCP. */
async function tcpPair(): Promise<[number, number]> {
  const listening = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 8 }))
  const { port } = native.inspect([listening])[0]!
  const here = keep(native.connectTcp('127.0.0.1', port!))
  for (;;) {
    const there = native.accept(listening)
    if (there >= 0) return [keep(there), here]
    await new Promise(resolve => setImmediate(resolve))
  }
}

function epoll(): number {
  return keep(native.createEpoll()!)
}

/** Descriptors that are ready, each with its bits. */
function ready(from: number, room = 16): Map<number, number> {
  const into = new Int32Array(3 * room)
  const count = native.askEpoll(from, into, new Uint8Array(0), Buffer.alloc(room), 1, 0)
  return new Map(Array.from({ length: count }, (_, i) => [into[3 * i]!, into[3 * i + 1]!]))
}

/** The bytes read from each of `eager`, as text, or the call's result for it. */
function readAhead(from: number, eager: readonly number[], budget = 1024): Map<number, string | number> {
  const slot = 4
  const into = new Int32Array(3 * 16)
  const wanted = new Uint8Array(Math.max(0, ...eager) + 1)
  for (const fd of eager) wanted[fd] = 1
  const memory = Buffer.alloc(16 * slot)
  const count = native.askEpoll(from, into, wanted, memory, slot, budget)
  const read = new Map<number, string | number>()
  for (let i = 0; i < count; i++) {
    const bytes = into[3 * i + 2]!
    read.set(into[3 * i]!, bytes > 0 ? memory.toString('latin1', slot * i, slot * i + bytes) : bytes)
  }
  return read
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

  it('reads from the eager ones, each into a place of its own, and leaves the rest in the kernel', () => {
    const set = epoll()
    const [a, b, c] = [pair(), pair(), pair()]
    for (const [mine] of [a, b, c]) native.setEpoll(set, mine, 0, READABLE)
    sent(a[1], 'abcdef')
    sent(b[1], 'xy')
    sent(c[1], 'left')
    const first: [number, string | number][] = [
      [a[0], 'abcd'],
      [b[0], 'xy'],
      [c[0], -1],
    ]
    expect(readAhead(set, [a[0], b[0]])).toEqual(new Map(first))
    expect(readAhead(set, [a[0], b[0]])).toEqual(
      new Map<number, string | number>([
        [a[0], 'ef'],
        [c[0], -1],
      ]),
    )
    expect(native.receive(c[0], Buffer.alloc(8), 0, 8)).toBe(4)
  })

  it('reads no more than it may: what others have to say stays where it is', () => {
    const set = epoll()
    const all = Array.from({ length: 4 }, pair)
    for (const [mine] of all) native.setEpoll(set, mine, 0, READABLE)
    for (const [, other] of all) sent(other, 'abc')
    const eager = all.map(([mine]) => mine)
    const got = [...readAhead(set, eager, 4).values()]
    expect(got.filter(bytes => bytes === 'abc')).toHaveLength(2)
    expect(got.filter(bytes => bytes === -1)).toHaveLength(2)
  })

  it('tells the end of an eager one, and of one that is broken what is wrong', async () => {
    const set = epoll()
    const [a, b] = pair()
    native.setEpoll(set, a, 0, READABLE)
    // Bytes that its peer has not read break a Unix connection at its close.
    sent(a, byte)
    native.close(b)
    const broken = readAhead(set, [a]).get(a) as number
    expect(native.failure(-1 - broken, 'recv')).toMatchObject({
      code: 'ECONNRESET',
      syscall: 'recv',
      errno: -1 - broken,
    })
    expect(readAhead(set, [a]).get(a)).toBe(0)
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
    const ask = (
      of: number,
      into: Int32Array,
      eager = new Uint8Array(1),
      memory = Buffer.alloc(8),
      slot = 8,
    ) => refused(() => native.askEpoll(of, into, eager, memory, slot, 0))
    const into = new Int32Array(3)
    expect(ask(a, into)).toMatchObject({ code: 'EINVAL', syscall: 'epoll_wait' })
    expect(ask(set, into.subarray(1))).toBeInstanceOf(RangeError)
    expect(ask(set, into, undefined, undefined, 9)).toBeInstanceOf(RangeError)
    expect(ask(set, into, undefined, undefined, 0)).toBeInstanceOf(RangeError)
    expect(ask(set, Buffer.alloc(12) as never)).toBeInstanceOf(TypeError)
    expect(ask(set, into, new Int32Array(1) as never)).toBeInstanceOf(TypeError)
    expect(ask(set, into, undefined, new Int32Array(8) as never)).toBeInstanceOf(TypeError)
    expect(refused(() => native.failure(0, 'recv'))).toBeInstanceOf(RangeError)
  })
})

describe('of TCP, epoll', () => {
  it('tells again as long as not all was read: a rest, the end behind the last bytes, what nobody is eager for', async () => {
    const set = epoll()
    const [[a, toA], [b, toB], [c, toC]] = [await tcpPair(), await tcpPair(), await tcpPair()]
    for (const mine of [a, b, c]) native.setEpoll(set, mine, 0, READABLE)
    sent(toA, 'abcdef')
    sent(toB, 'xy')
    native.shutDown(toB)
    sent(toC, 'left')
    const next = () => readAhead(set, [a, b])
    const of = (...all: [number, string | number][]) => new Map<number, string | number>(all)
    expect(next()).toEqual(of([a, 'abcd'], [b, 'xy'], [c, -1]))
    expect(next()).toEqual(of([a, 'ef'], [b, 0], [c, -1]))
    expect(next()).toEqual(of([b, 0], [c, -1]))
    native.receive(c, Buffer.alloc(8), 0, 8)
    native.setEpoll(set, b, READABLE, 0)
    expect(next()).toEqual(of())
    sent(toA, 'gh')
    expect(next()).toEqual(of([a, 'gh']))
  })

  it('tells that one may be written to until that is not wanted any more', async () => {
    const set = epoll()
    const [a] = await tcpPair()
    native.setEpoll(set, a, 0, READABLE | WRITABLE)
    const writable = new Map([[a, WRITABLE]])
    expect([ready(set), ready(set)]).toEqual([writable, writable])
    native.setEpoll(set, a, READABLE | WRITABLE, READABLE)
    expect(ready(set).size).toBe(0)
  })

  it('says of a broken one that it can be read from and written to, for as long as it is there', async () => {
    const set = epoll()
    const [a, b] = await tcpPair()
    native.setEpoll(set, a, 0, READABLE)
    native.resetAtClose(b)
    native.close(b)
    const broken = new Map([[a, READABLE | WRITABLE]])
    expect([ready(set), ready(set)]).toEqual([broken, broken])
  })

  it('tells of them in the order in which something came', async () => {
    const set = epoll()
    const pairs = [await tcpPair(), await tcpPair(), await tcpPair()]
    const [a, b, c] = pairs.map(([mine]) => mine) as [number, number, number]
    const [toA, toB, toC] = pairs.map(([, other]) => other) as [number, number, number]
    for (const mine of [a, b, c]) native.setEpoll(set, mine, 0, READABLE)
    for (const other of [toA, toB]) sent(other, byte)
    const eager = [a, b, c]
    expect([...readAhead(set, eager).keys()]).toEqual([a, b])
    // Both were just told of, and stand nowhere in the queue that is left.
    for (const other of [toC, toB, toA]) sent(other, byte)
    expect([...readAhead(set, eager).keys()]).toEqual([c, b, a])
  })
})
