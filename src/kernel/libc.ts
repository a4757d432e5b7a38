import { closeSync, openSync, readSync } from 'node:fs'
import { basename } from 'node:path'

/** The C libraries for which there are builds of the addon. */
export type Libc = 'glibc' | 'musl'

/** Of an ELF file: type of the program header that names its interpreter. */
const INTERPRETER = 3
const ELF_64_BITS_LITTLE_ENDIAN = '7f454c460201'

/** `ld-musl-x86_64.so.1` is a link to musl's `libc.so`. */
const MUSL = /^(?:ld-musl-.*|libc\.so)$/
/** `ld-linux-x86-64.so.2` was a link to `ld-2.31.so`. */
const GLIBC = /^ld(?:-linux|64|-2\.).*$/

/**
 * The C library that a program runs with, by the loader that its file asks for (`/lib/ld-musl-x86_64.so.1`); a file that asks for none may be
 * a loader itself, which was told to run a program. Undefined where it does not tell. It costs three reads of some bytes: `process.report` takes
 * milliseconds, and what is installed on the machine (`/etc/alpine-release`, `ldd`) says nothing of a program that brought its own.
 */
export function libcOf(program: string): Libc | undefined {
  try {
    const fd = openSync(program, 'r')
    try {
      const loader = basename(interpreterOf(fd) ?? program)
      if (MUSL.test(loader)) return 'musl'
      return GLIBC.test(loader) ? 'glibc' : undefined
    } finally {
      closeSync(fd)
    }
  } catch {
    return undefined // it may be executed, not read
  }
}

function interpreterOf(fd: number): string | undefined {
  const head = bytesAt(fd, 0, 64)
  if (head.length < 64 || head.toString('hex', 0, 6) !== ELF_64_BITS_LITTLE_ENDIAN) return undefined
  const size = head.readUInt16LE(54)
  const table = bytesAt(fd, Number(head.readBigUInt64LE(32)), size * head.readUInt16LE(56))
  for (let at = 0; at + size <= table.length; at += size) {
    if (table.readUInt32LE(at) !== INTERPRETER) continue
    const path = bytesAt(fd, Number(table.readBigUInt64LE(at + 8)), Number(table.readBigUInt64LE(at + 32)))
    return path.toString('latin1', 0, path.indexOf(0))
  }
  return undefined
}

function bytesAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(Math.min(length, 65_536))
  return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, position))
}
