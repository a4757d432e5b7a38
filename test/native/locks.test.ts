import { lstatSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { descriptors, folders, thrown } from './support.js'

const keep = descriptors()
const folder = folders()

describe('locks', () => {
  it('belong to the open file description: a dup has it, another opening has not', async () => {
    const path = join(await folder(), 'lock')
    const first = keep(native.openLockFile(path, 0o600))
    const dup = keep(native.dup(first))
    const second = keep(native.openLockFile(path, 0o600))
    expect(lstatSync(path).mode & 0o777).toBe(0o600)
    expect(native.tryLock(first)).toBe(true)
    expect(native.tryLock(dup)).toBe(true)
    expect(native.tryLock(second)).toBe(false)
    native.close(first)
    expect(native.tryLock(second)).toBe(false)
    native.close(dup)
    expect(native.tryLock(second)).toBe(true)
  })

  it('travel with a passed descriptor', async () => {
    const path = join(await folder(), 'lock')
    const [a, b] = keep(native.socketPair())
    const lock = keep(native.openLockFile(path, 0o600))
    native.tryLock(lock)
    const byte = Buffer.alloc(1)
    native.sendMessage(a!, byte, 0, 1, [lock])
    native.close(lock)
    const other = keep(native.openLockFile(path, 0o600))
    expect(native.tryLock(other)).toBe(false)
    const [received] = keep(native.receiveMessage(b!, byte, 0, 1).fds!)
    expect(native.tryLock(other)).toBe(false)
    native.close(received!)
    expect(native.tryLock(other)).toBe(true)
  })

  it('refuse a symbolic link and a folder', async () => {
    const dir = await folder()
    symlinkSync('/dev/null', join(dir, 'link'))
    mkdirSync(join(dir, 'sub'))
    expect(thrown(() => native.openLockFile(join(dir, 'link'), 0o600))).toMatchObject({
      code: 'ELOOP',
      syscall: 'open',
    })
    expect(thrown(() => native.openLockFile(join(dir, 'sub'), 0o600))).toMatchObject({ code: 'EISDIR' })
    expect(thrown(() => native.openLockFile(join(dir, 'no', 'x'), 0o600))).toMatchObject({ code: 'ENOENT' })
    expect(thrown(() => native.openLockFile('/'.padEnd(5000, 'x'), 0o600))).toMatchObject({
      code: 'ENAMETOOLONG',
    })
    expect(thrown(() => native.openLockFile('/tmp/a\0b', 0o600))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.tryLock(99_999))).toMatchObject({ code: 'EBADF', syscall: 'flock' })
  })

  it('cover bytes of a file, for each open file description, and are found by the others', async () => {
    const path = join(await folder(), 'lock')
    const [first, second] = [0, 1].map(() => keep(native.openLockFile(path, 0o600))) as [number, number]
    expect(native.lockRange(first, 2, 10, 5)).toBe(true)
    expect([native.lockRange(second, 1, 14, 1), native.lockRange(second, 2, 15, 1)]).toEqual([false, true])
    expect(native.findLock(second, 2, 0, 100)).toEqual([10, 15])
    expect(native.findLock(first, 2, 0, 100)).toEqual([15, 16])
    expect(native.lockRange(first, 1, 10, 5)).toBe(true)
    expect(native.findLock(second, 1, 10, 1)).toBeNull()
    expect([native.lockRange(second, 1, 12, 1), native.lockRange(second, 2, 12, 1)]).toEqual([true, false])
    expect(native.lockRange(first, 0, 10, 5)).toBe(true)
    expect(native.lockRange(second, 2, 10, 5)).toBe(true)
    native.close(second)
    expect(native.findLock(first, 2, 0, 100)).toBeNull()
    expect(native.lockRange(first, 2, 2 ** 52, 1)).toBe(true)
    expect(thrown(() => native.lockRange(99_999, 2, 0, 1))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' })
    expect(thrown(() => native.findLock(99_999, 2, 0, 1))).toMatchObject({ code: 'EBADF', syscall: 'fcntl' })
    expect(thrown(() => native.lockRange(first, 2, 0, 0))).toBeInstanceOf(RangeError)
  })
})
