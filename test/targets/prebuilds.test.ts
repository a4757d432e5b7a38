import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TARGETS } from '../../tools/prebuild/targets.mjs'
import { Elf } from './elf.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fdb-prebuilds-test-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** Files of the same C library. */
const OF_GLIBC = /^lib(?:c|m|pthread|rt|dl)\.so\.\d$|^ld-linux-aarch64\.so\.1$/

const first = join(folder, 'first')
beforeAll(() => {
  execFileSync(process.execPath, [join(ROOT, 'tools/prebuild/main.mjs'), '--into', first], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
})

function hash(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex')
}

/** The project in another place: its sources, the compiler, and nothing that was compiled. */
function elsewhere(): string {
  const copy = mkdtempSync(join(folder, 'elsewhere-'))
  for (const part of ['binding.gyp', 'native', 'tools', 'package.json'])
    cpSync(join(ROOT, part), join(copy, part), { recursive: true })
  mkdirSync(join(copy, 'build/prebuild'), { recursive: true })
  symlinkSync(join(ROOT, 'build/node-headers'), join(copy, 'build/node-headers'))
  for (const name of readdirSync(join(ROOT, 'build/prebuild')).filter(name => name.startsWith('zig-')))
    symlinkSync(join(ROOT, 'build/prebuild', name), join(copy, 'build/prebuild', name))
  return copy
}

describe('prebuilt addons', () => {
  it('exist for every platform', () => {
    for (const { file } of TARGETS) expect(existsSync(join(first, file)), file).toBe(true)
  })

  it('match those of prebuilds/, if there are some: they are of these sources', () => {
    for (const { file } of TARGETS) {
      const present = join(ROOT, 'prebuilds', file)
      if (existsSync(present)) expect(hash(present), file).toBe(hash(join(first, file)))
    }
  })

  it.each(TARGETS.filter(({ name }) => name.startsWith('linux')))(
    '$name needs no library but that of C, and nothing that is newer than the glibc of 2012',
    ({ name, file }) => {
      const elf = new Elf(join(first, file))
      expect(elf.machine).toBe(name.includes('x64') ? 62 : 183)
      expect(elf.isHardened).toBe(true)
      if (name.endsWith('musl')) {
        expect(elf.libraries).toEqual(['libc.so'])
        expect(elf.versions).toEqual([])
        return
      }
      expect(elf.libraries.filter(library => !OF_GLIBC.test(library))).toEqual([])
      expect(elf.versions.length).toBeGreaterThan(0)
      for (const version of elf.versions) {
        expect(version).toMatch(/^GLIBC_2\.\d+(?:\.\d+)?$/)
        expect(Number(version.split('.')[1]), version).toBeLessThanOrEqual(17)
      }
    },
  )

  it.each(TARGETS.filter(({ name }) => name.startsWith('darwin')))(
    '$name is a library for that processor',
    ({ name, file }) => {
      const bytes = readFileSync(join(first, file))
      expect(bytes.readUInt32LE(0)).toBe(0xfeedfacf)
      expect(bytes.readUInt32LE(4)).toBe(name.endsWith('x64') ? 0x01000007 : 0x0100000c)
    },
  )

  it('have the same bytes when they are built in another folder, with nothing compiled before', () => {
    const copy = elsewhere()
    execFileSync(process.execPath, [join(copy, 'tools/prebuild/main.mjs')], { stdio: 'ignore' })
    for (const { name, file } of TARGETS)
      expect(hash(join(copy, 'prebuilds', file)), name).toBe(hash(join(first, file)))
  })

  it('fail to build where the compiler warns, for macOS neither', () => {
    const copy = elsewhere()
    appendFileSync(join(copy, 'native/errors.c'), '\nstatic int nobody_calls_it(void) { return 1; }\n')
    const tried = spawnSync(process.execPath, [join(copy, 'tools/prebuild/main.mjs'), 'darwin-x64'], {
      encoding: 'utf8',
    })
    expect(tried.status).toBe(1)
    expect(tried.stderr).toContain('nobody_calls_it')
    expect(existsSync(join(copy, 'prebuilds/darwin-x64/fd-broker.node'))).toBe(false)
  })
})
