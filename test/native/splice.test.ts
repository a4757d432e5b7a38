import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptors, thrown } from './support.js'

const keep = descriptors()
const never = 5_000_000
const result = new Int32Array(2)

function pair(): [number, number] {
  const made = native.socketPair()
  keep(made)
  return made
}

function pipe(): [number, number] {
  const made = native.openPipe()
  keep(made)
  return made
}

function sent(fd: number, bytes: Buffer): number {
  return native.send(fd, bytes, 0, bytes.length, null, 0, 0)
}

describe.runIf(process.platform === 'linux')('splice', () => {
  it('moves what has come, and says when nothing has, and when nothing more will come', () => {
    const [[a, b], [c, d], [out, into]] = [pair(), pair(), pipe()]
    expect(native.splice(b, c, out, into, 100, result)).toBe(-1)
    sent(a, Buffer.from('bytes that pass'))
    expect([native.splice(b, c, out, into, 5, result), ...result]).toEqual([5, 0, 0])
    expect([native.splice(b, c, out, into, 100, result), ...result]).toEqual([10, 0, 0])
    const got = Buffer.alloc(32)
    let length = 0
    while (length < 15) length += native.receive(d, got, length, 32 - length)
    expect(got.toString('latin1', 0, length)).toBe('bytes that pass')
    native.shutDown(a)
    expect(native.splice(b, c, out, into, 100, result)).toBe(0)
  })

  it('leaves in the pipe the bytes for which the receiver has no room', () => {
    const [[a, b], [c, d], [out, into]] = [pair(), pair(), pipe()]
    const bytes = randomBytes(64 * 1024)
    const full = Buffer.alloc(1 << 20)
    while (sent(c, full) > 0);
    expect(sent(a, bytes)).toBe(bytes.length)
    const taken = native.splice(b, c, out, into, bytes.length, result)
    const [left, errno] = result
    expect([left! > 0, left! <= taken, errno]).toEqual([true, true, 0])
    const rest = Buffer.alloc(left!)
    native.readPipe(out, rest, 0, left!)
    expect(rest.equals(bytes.subarray(taken - left!, taken))).toBe(true)
    expect(thrown(() => native.readPipe(out, rest, 0, 1))).toMatchObject({ code: 'EAGAIN', syscall: 'read' })
    native.close(d)
  })

  it('says that the receiver is broken, and leaves the bytes', () => {
    const [[a, b], [c, d], [out, into]] = [pair(), pair(), pipe()]
    native.close(d)
    sent(a, Buffer.from('lost'))
    expect(native.splice(b, c, out, into, 100, result)).toBe(4)
    expect(result[0]).toBe(4)
    expect(result[1]).toBeGreaterThan(0)
  })

  it('moves nothing with a socket that blocks, or what is none', () => {
    const [[a, b], [c], [out, into]] = [pair(), pair(), pipe()]
    sent(a, Buffer.from('bytes'))
    native.setBlocking(c, true)
    expect(native.splice(b, c, out, into, 100, result)).toBe(-2)
    native.setBlocking(c, false)
    native.setBlocking(b, true)
    expect(native.splice(b, c, out, into, 100, result)).toBe(-2)
    native.setBlocking(b, false)
    expect(native.splice(native.createEpoll()!, c, out, into, 100, result)).toBe(-2)
    expect(native.splice(b, c, out, into, 100, result)).toBe(5)
  })

  it('throws what is wrong with its arguments', () => {
    const [[, b], [c], [out, into]] = [pair(), pair(), pipe()]
    expect(native.splice(never, c, out, into, 1, result)).toBe(-2)
    expect(thrown(() => native.splice(b, c, out, into, 0, result))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.splice(b, c, out, into, 1, new Int32Array(1)))).toBeInstanceOf(TypeError)
    expect(thrown(() => native.readPipe(never, Buffer.alloc(1), 0, 1))).toMatchObject({ code: 'EBADF' })
  })
})
