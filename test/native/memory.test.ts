import { existsSync, fstatSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  SEAL_EXEC,
  SEAL_FUTURE_WRITE,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_SHRINK,
  SEAL_WRITE,
} from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { descriptors, folders, target, thrown } from './support.js'

const keep = descriptors()
const folder = folders()

function memory(content = ''): number {
  const fd = keep(native.memfd('fdb-test'))
  const bytes = Buffer.from(content)
  if (bytes.length > 0) native.pwrite(fd, bytes, 0, bytes.length, 0)
  return fd
}

/** The seals that were asked for. */
function sealsOf(fd: number): number {
  return native.getSeals(fd)! & ~SEAL_EXEC
}

function content(fd: number): string {
  const bytes = Buffer.alloc(native.fileSize(fd))
  expect(native.pread(fd, bytes, 0, bytes.length, 0)).toBe(bytes.length)
  return bytes.toString()
}

describe('memfd', () => {
  it('can be opened again by its own user only', () => {
    const { mode } = fstatSync(keep(native.memfd('own')))
    expect((mode & 0o666).toString(8)).toBe('600')
    expect(mode & 0o077).toBe(0)
  })

  it('has a name, no seals and no bytes', () => {
    const fd = memory()
    expect(target(fd)).toContain('memfd:fdb-test')
    expect(sealsOf(fd)).toBe(0)
    expect(native.fileSize(fd)).toBe(0)
    expect(thrown(() => native.memfd('x'.repeat(250)))).toBeInstanceOf(RangeError)
    expect(thrown(() => native.memfd('a\0b'))).toBeInstanceOf(RangeError)
    keep(native.memfd('x'.repeat(249)))
  })

  it('can never be executed where the kernel has that', () => {
    const file = keep(native.memfd('file'))
    const knows = existsSync('/proc/sys/vm/memfd_noexec')
    expect((native.getSeals(file)! & SEAL_EXEC) !== 0).toBe(knows)
    expect((fstatSync(file).mode & 0o111) === 0).toBe(knows)
  })

  it('reads and writes at positions', () => {
    const fd = memory('hello world')
    const bytes = Buffer.alloc(10, '-')
    expect(native.pread(fd, bytes, 2, 5, 6)).toBe(5)
    expect(bytes.toString()).toBe('--world---')
    expect(native.pread(fd, bytes, 0, 10, 6)).toBe(5)
    expect(native.pread(fd, bytes, 0, 10, 1000)).toBe(0)
    expect(native.pwrite(fd, Buffer.from('..J..'), 2, 1, 0)).toBe(1)
    expect(content(fd)).toBe('Jello world')
    expect(native.pread(fd, bytes, 0, 0, 0)).toBe(0)
    expect(native.pwrite(fd, bytes, 0, 0, 0)).toBe(0)
  })

  it('writes megabytes in one call', () => {
    const fd = memory()
    const big = Buffer.alloc(8 << 20, 7)
    expect(native.pwrite(fd, big, 0, big.length, 3)).toBe(big.length)
    expect(native.fileSize(fd)).toBe(big.length + 3)
  })
})

describe('seals', () => {
  it('end writing for every holder', () => {
    const fd = memory('kept')
    const dup = keep(native.dup(fd))
    native.addSeals(fd, SEAL_WRITE)
    expect(sealsOf(dup)).toBe(SEAL_WRITE)
    expect(thrown(() => native.pwrite(dup, Buffer.from('x'), 0, 1, 0))).toMatchObject({
      code: 'EPERM',
      syscall: 'pwrite',
    })
    expect(thrown(() => native.pwrite(dup, Buffer.from('x'), 0, 1, 4))).toMatchObject({ code: 'EPERM' })
    expect(content(fd)).toBe('kept')
  })

  it('SHRINK leaves appends working; GROW ends them', () => {
    const fd = memory('a')
    native.addSeals(fd, SEAL_SHRINK)
    expect(native.pwrite(fd, Buffer.from('b'), 0, 1, 1)).toBe(1)
    native.addSeals(fd, SEAL_GROW)
    expect(thrown(() => native.pwrite(fd, Buffer.from('c'), 0, 1, 2))).toMatchObject({ code: 'EPERM' })
    expect(native.pwrite(fd, Buffer.from('B'), 0, 1, 1)).toBe(1)
    expect(sealsOf(fd)).toBe(SEAL_SHRINK | SEAL_GROW)
    native.addSeals(fd, SEAL_FUTURE_WRITE | SEAL_SEAL)
    expect(thrown(() => native.addSeals(fd, SEAL_WRITE))).toMatchObject({ code: 'EPERM', syscall: 'fcntl' })
  })

  it('cannot be added through a read-only reopening', () => {
    const fd = memory('seal me')
    const reader = keep(native.reopenReadOnly(fd))
    expect(content(reader)).toBe('seal me')
    expect(thrown(() => native.addSeals(reader, SEAL_WRITE))).toMatchObject({ code: 'EPERM' })
    expect(thrown(() => native.pwrite(reader, Buffer.from('x'), 0, 1, 0))).toMatchObject({ code: 'EBADF' })
    expect(sealsOf(reader)).toBe(0)
    native.addSeals(fd, SEAL_WRITE)
    expect(sealsOf(reader)).toBe(SEAL_WRITE)
    expect(native.inspect([fd])[0]!.ino).toBe(native.inspect([reader])[0]!.ino)
  })

  it('give null where a file knows none', async () => {
    const path = join(await folder(), 'f')
    writeFileSync(path, '')
    const lock = keep(native.openLockFile(path, 0o600))
    const seals = native.getSeals(lock)
    expect(seals === null || seals === SEAL_SEAL).toBe(true)
    const [a] = keep(native.socketPair())
    expect(native.getSeals(a!)).toBeNull()
    expect(thrown(() => native.addSeals(a!, SEAL_WRITE))).toMatchObject({ code: 'EINVAL' })
  })

  it('fail clearly on what is closed, no file, or out of range', () => {
    expect(thrown(() => native.getSeals(99_999))).toMatchObject({ code: 'EBADF' })
    expect(thrown(() => native.fileSize(99_999))).toMatchObject({ code: 'EBADF', syscall: 'fstat' })
    expect(thrown(() => native.reopenReadOnly(99_999))).toMatchObject({ code: 'EBADF' })
    const [a] = keep(native.socketPair())
    expect(thrown(() => native.reopenReadOnly(a!))).toMatchObject({ code: 'ENXIO' })
    expect(thrown(() => native.pread(a!, Buffer.alloc(1), 0, 1, 0))).toMatchObject({ code: 'ESPIPE' })
    expect(thrown(() => native.addSeals(memory(), 64))).toBeInstanceOf(RangeError)
  })
})
