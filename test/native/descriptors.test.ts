import { closeSync, openSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, target, thrown } from './support.js'

const keep = descriptors()

function isCloexec(fd: number): boolean {
  return (flagsOf(fd) & CLOEXEC) !== 0
}

describe('ownership', () => {
  it('counts what was opened, adopted, released and closed', () => {
    const start = native.openCount()
    const memory = keep(native.memfd('m'))
    const copy = keep(native.dup(memory))
    expect(native.openCount()).toBe(start + 2)
    native.release(copy)
    native.release(copy)
    expect(native.openCount()).toBe(start + 1)
    native.adopt(copy)
    native.adopt(copy)
    expect(native.openCount()).toBe(start + 2)
    native.closeMany([copy, memory])
    expect(native.openCount()).toBe(start)
    expect(thrown(() => native.adopt(copy))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' })
  })

  it('closes descriptors that it does not own', () => {
    const fd = openSync('/dev/null', 'r')
    const start = native.openCount()
    native.close(fd)
    expect(native.openCount()).toBe(start)
    expect(thrown(() => closeSync(fd))).toMatchObject({ code: 'EBADF' })
  })

  it('grows with the highest number', () => {
    const memory = keep(native.memfd('m'))
    const start = native.openCount()
    const many = keep(Array.from({ length: 3000 }, () => native.dup(memory)))
    expect(native.openCount()).toBe(start + 3000)
    native.closeMany(many)
    expect(native.openCount()).toBe(start)
  })
})

describe('close', () => {
  it('says EBADF the second time', () => {
    const fd = native.memfd('m')
    native.close(fd)
    expect(thrown(() => native.close(fd))).toMatchObject({ code: 'EBADF', syscall: 'close' })
  })

  it('closes all the others when one of many is bad', () => {
    const fds = [native.memfd('a'), 99_999, native.memfd('b')]
    expect(thrown(() => native.closeMany(fds))).toMatchObject({ code: 'EBADF' })
    expect(target(fds[0]!)).toBeNull()
    expect(target(fds[2]!)).toBeNull()
    native.closeMany([])
  })

  it('names the element that is no descriptor', () => {
    expect(thrown(() => native.closeMany([Number.NaN]))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.closeMany([1e9, -1])).message).toContain('element 1')
  })
})

describe('dup and setCloexec', () => {
  it('makes CLOEXEC copies above the standard streams', () => {
    const copy = keep(native.dup(0))
    expect(copy).toBeGreaterThan(2)
    expect(isCloexec(copy)).toBe(true)
    expect(thrown(() => native.dup(99_999))).toMatchObject({ code: 'EBADF', syscall: 'dup' })
  })

  it('makes room for as many as it is told, and opens none', async () => {
    const size = () => Number(/FDSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1])
    const before = native.openCount()
    await native.makeRoom(3_000)
    expect(size()).toBeGreaterThanOrEqual(3_000)
    expect(native.openCount()).toBe(before)
    await native.makeRoom(2 ** 31 - 1)
    expect(thrown(() => native.makeRoom(0))).toBeInstanceOf(RangeError)
  })

  it('turns CLOEXEC off and on', () => {
    const fd = keep(native.memfd('m'))
    expect(isCloexec(fd)).toBe(true)
    native.setCloexec(fd, false)
    expect(isCloexec(fd)).toBe(false)
    native.setCloexec(fd, true)
    expect(isCloexec(fd)).toBe(true)
    expect(thrown(() => native.setCloexec(99_999, true))).toMatchObject({ code: 'EBADF' })
  })
})

describe('firstNotStream', () => {
  it('finds what nobody can go on with as with a connection', () => {
    const [a, b] = native.socketPair()
    const listening = native.bindSocket({ kind: 'tcp', host: '127.0.0.1', backlog: 1 })
    const udp = native.bindSocket({ kind: 'udp', host: '127.0.0.1' })
    const memory = native.memfd('fdb-none')
    const bound = native.bindSocket({ kind: 'tcp', host: '::1' })
    expect(native.firstNotStream([])).toBe(-1)
    expect(native.firstNotStream([a, b, bound, a])).toBe(-1)
    expect(native.firstNotStream([a, b, listening])).toBe(2)
    expect(native.firstNotStream([a, udp, listening])).toBe(1)
    expect(native.firstNotStream([memory])).toBe(0)
    expect(native.firstNotStream([a, 99_999])).toBe(1)
    expect(native.firstNotStream([...new Array(1500).fill(a), memory])).toBe(1500)
    for (const fd of [a, b, listening, udp, memory, bound]) native.close(fd)
  })
})

describe('inspect', () => {
  it('answers in order, with an error for what is not open', () => {
    const memory = keep(native.memfd('m'))
    const [a] = keep(native.socketPair())
    const seen = native.inspect([memory, 99_999, a!, memory])
    expect(seen.map(one => one.type)).toEqual(['file', 'other', 'socket', 'file'])
    expect(seen[1]).toMatchObject({ error: 'EBADF' })
    expect(seen[0]).toEqual(seen[3])
    expect(seen[0]!.error).toBeUndefined()
    expect(native.inspect([])).toEqual([])
  })

  it('tells files, folders and devices', () => {
    const folder = openSync('/', 'r')
    const device = openSync('/dev/null', 'r')
    const file = openSync(import.meta.filename, 'r')
    expect(native.inspect([folder, device, file]).map(one => one.type)).toEqual(['dir', 'char', 'file'])
    for (const fd of [folder, device, file]) closeSync(fd)
  })

  it('sees one socket through every dup, and another as another', () => {
    const one = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }))
    const dup = keep(native.dup(one))
    const other = keep(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }))
    const [a, b, c] = native.inspect([one, dup, other])
    expect(a).toEqual(b)
    expect(a!.cookie).toMatch(/^\d+$/)
    expect(c!.cookie).not.toBe(a!.cookie)
    expect(c!.ino).not.toBe(a!.ino)
  })

  it('takes more than one batch of the copy buffer', () => {
    const memory = keep(native.memfd('m'))
    const seen = native.inspect(new Array(1500).fill(memory))
    expect(seen).toHaveLength(1500)
    expect(new Set(seen.map(one => one.ino)).size).toBe(1)
  })

  it('reads abstract names, IPv6 addresses and unbound sockets', () => {
    const name = `fdb-inspect-${process.pid}-ü`
    const fds = keep([
      native.bindSocket({ kind: 'unix', host: name, abstract: true, datagram: true }),
      native.bindSocket({ kind: 'tcp', host: '::', port: 0, backlog: 1 }),
      ...native.socketPair(),
    ])
    expect(native.inspect(fds)).toMatchObject([
      { family: 'unix', socketType: 'dgram', address: name, abstract: true },
      { family: 'inet6', address: '::', port: expect.any(Number), ipv6Only: true, protocol: 6 },
      { family: 'unix', address: '', abstract: false },
      { family: 'unix', address: '', abstract: false },
    ])
  })
})
