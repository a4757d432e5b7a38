import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import type { FdbError } from '../../../src/errors.js'
import { libcOf, loadAddon } from '../../../src/kernel/addon.js'

const own = join(import.meta.dirname, '../../../build/Release/fd_broker.node')
const folders: string[] = []
const PREBUILDS = `prebuilds/${process.platform}-${process.arch}`

afterEach(() => {
  vi.unstubAllEnvs()
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true })
})

/** A package with these files: their content, or `true` for the addon that was built here. */
function packageWith(files: Record<string, string | Buffer | true>): string {
  const root = mkdtempSync(join(tmpdir(), 'fdb-addon-'))
  folders.push(root)
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    if (content === true) copyFileSync(own, join(root, name))
    else writeFileSync(join(root, name), content)
  }
  return root
}

function refusal(root: string): FdbError {
  try {
    loadAddon(root)
  } catch (error) {
    return error as FdbError
  }
  throw new Error('it was loaded')
}

describe('the addon', () => {
  it('comes from the clone’s own build, before a prebuilt one', () => {
    const root = packageWith({
      'build/Release/fd_broker.node': true,
      [`${PREBUILDS}/fd-broker.glibc.node`]: 'not looked at',
    })
    expect(loadAddon(root)).toHaveProperty('bindSocket')
  })

  it.each(['glibc', 'musl'])('comes prebuilt, if that of %s is the one that can be loaded', libc => {
    const other = libc === 'glibc' ? 'musl' : 'glibc'
    const root = packageWith({
      [`${PREBUILDS}/fd-broker.${libc}.node`]: true,
      [`${PREBUILDS}/fd-broker.${other}.node`]: 'of another C library',
    })
    expect(loadAddon(root)).toHaveProperty('bindSocket')
  })

  it('comes from FD_BROKER_ADDON, and from nowhere else', () => {
    const root = packageWith({ 'named.node': 'not an addon', 'build/Release/fd_broker.node': true })
    vi.stubEnv('FD_BROKER_ADDON', join(root, 'named.node'))
    const error = refusal(root)
    expect(error.code).toBe('ERR_FDB_ADDON')
    expect(error.message).toContain('named.node')
    expect(error.message).not.toContain('Release')
    expect(error.message).toMatch(/: correct FD_BROKER_ADDON, or unset it$/)
    vi.stubEnv('FD_BROKER_ADDON', own)
    expect(loadAddon('/nonexistent')).toHaveProperty('bindSocket')
  })

  it('fails to load with an error that names the machine, each file, what was wrong with it, and what to do', () => {
    const root = packageWith({ [`${PREBUILDS}/fd-broker.glibc.node`]: 'not an addon' })
    const error = refusal(root)
    expect(error).toMatchObject({ name: 'FdbError', code: 'ERR_FDB_ADDON', retryable: false })
    expect(error.message).toContain(`for ${process.platform}-${process.arch}, ${libcOf(process.execPath)}`)
    const at = (file: string) => error.message.indexOf(`${join(root, file)}: `)
    const places = [
      'build/Release/fd_broker.node',
      `${PREBUILDS}/fd-broker.glibc.node`,
      `${PREBUILDS}/fd-broker.musl.node`,
    ].map(at)
    expect(places.every(place => place > 0)).toBe(true)
    expect(error.message).toMatch(/glibc\.node: (?:file too short|invalid ELF header)/)
    expect(error.message).toMatch(/musl\.node: there is no such file/)
    expect(error.message).toMatch(/install the package again .* FD_BROKER_ADDON$/)
    expect(error.details.failures).toHaveLength(3)
    expect(error.cause).toMatchObject({ code: 'ERR_DLOPEN_FAILED' })
  })
})

/** A program whose table of headers is behind all else, as where patchelf has been. */
function program(loader: string): Buffer {
  const file = Buffer.alloc(64 + loader.length + 1 + 2 * 56)
  const table = 64 + loader.length + 1
  file.write('7f454c460201', 'hex')
  file.writeBigUInt64LE(BigInt(table), 32)
  file.writeUInt16LE(56, 54)
  file.writeUInt16LE(2, 56)
  file.write(loader, 64)
  file.writeUInt32LE(6, table)
  file.writeUInt32LE(3, table + 56)
  file.writeBigUInt64LE(64n, table + 56 + 8)
  file.writeBigUInt64LE(BigInt(loader.length + 1), table + 56 + 32)
  return file
}

describe('the C library of a program', () => {
  const libcOfFile = (program: Buffer | string) => libcOf(join(packageWith({ program }), 'program'))

  it('follows from its loader', () => {
    expect(libcOfFile(program('/lib64/ld-linux-x86-64.so.2'))).toBe('glibc')
    expect(libcOfFile(program('/nix/store/abc-glibc-2.40/lib/ld-linux-aarch64.so.1'))).toBe('glibc')
    expect(libcOfFile(program('/lib/ld-musl-aarch64.so.1'))).toBe('musl')
    expect(libcOfFile(program('/opt/own/ld-musl-x86_64.so.1'))).toBe('musl')
    expect(libcOfFile(program('/opt/musl/ld-linux-x86-64.so.2'))).toBe('glibc')
  })

  it('follows from a loader which was told to run a program', () => {
    const loader = program('').fill(0, 64)
    const named = (name: string) => libcOf(join(packageWith({ [name]: loader }), name))
    expect(named('ld-musl-aarch64.so.1')).toBe('musl')
    expect(named('libc.so')).toBe('musl')
    expect(named('ld-linux-aarch64.so.1')).toBe('glibc')
    expect(named('ld-2.31.so')).toBe('glibc')
  })

  it('follows from the report of this Node', () => {
    const { header } = process.report!.getReport() as { header: Record<string, string> }
    expect(libcOf(process.execPath)).toBe(header.glibcVersionRuntime ? 'glibc' : 'musl')
  })

  it('follows from its loader alone, which is read in little memory whatever its length is said to be', () => {
    const file = program('/lib64/ld-linux-x86-64.so.2')
    expect(libcOfFile(Buffer.concat([file, Buffer.from('musl')]))).toBe('glibc')
    file.writeBigUInt64LE(2n ** 45n, file.length - 56 + 32)
    expect(libcOfFile(file)).toBe('glibc')
  })

  it('stays unknown where the file does not tell', () => {
    const narrow = program('/lib/ld-musl-i386.so.1')
    narrow.write('7f454c460101', 'hex')
    expect(libcOfFile(narrow)).toBeUndefined()
    expect(libcOfFile('#!/bin/sh\n')).toBeUndefined()
    expect(libcOfFile(program('/system/bin/linker64'))).toBeUndefined()
    expect(libcOfFile(program('/lib/x').subarray(0, 80))).toBeUndefined()
    expect(libcOf('/nonexistent')).toBeUndefined()
  })
})
