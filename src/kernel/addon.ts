import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { requireAs, thisFile } from '../base/this-file.js'
import { FdbError } from '../errors.js'

/** The C libraries for which there are builds of the addon. */
type Libc = 'glibc' | 'musl'

/** ELF: the type of the program header that names the interpreter. */
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

const require = requireAs(thisFile())

const ORDER: Record<Libc | 'unknown', readonly Libc[]> = {
  glibc: ['glibc', 'musl'],
  musl: ['musl'],
  unknown: ['musl', 'glibc'],
}

/** The file that `npm run build:native` makes in a clone. */
const OWN_BUILD = 'build/Release/fd_broker.node'

let loaded: string | null = null

/** The path of the addon that was loaded; null: its file is no longer there. */
export function addonFile(): string | null {
  return loaded !== null && existsSync(loaded) ? loaded : null
}

/**
 * The addon: the file that FD_BROKER_ADDON names, and no other then; else the one that a clone has built; else the prebuilt one for
 * this platform and C library.
 *
 * @throws {FdbError} ERR_FDB_ADDON with every file that was looked for, and why it could not be loaded; ERR_FDB_PLATFORM on Windows.
 */
export function loadAddon(root?: string): unknown {
  if (process.platform === 'win32') {
    throw new FdbError(
      'ERR_FDB_PLATFORM',
      'fd-broker moves file descriptors between processes; Windows has no such thing. Run it on Linux (or macOS, untested).',
    )
  }
  const named = process.env.FD_BROKER_ADDON
  if (named) return loadFirst([resolve(named)], 'correct FD_BROKER_ADDON, or unset it')
  const folder = root ?? packageRoot()
  return loadFirst(
    [OWN_BUILD, ...prebuilt(process.platform, process.arch)].map(file => join(folder, file)),
    'install the package again if files of it are missing; if no prebuilt addon fits this platform, build one in a clone of the repository (npm run build:native) and give its path in FD_BROKER_ADDON',
  )
}

/**
 * Prebuilt addons that may fit, below the package's folder, in their order. musl's loader takes the addon for glibc without a word, and the process
 * crashes when it is called: it is not tried there, and last where the C library is not known. The one for musl glibc's loader refuses.
 */
function prebuilt(platform: string, arch: string): string[] {
  const folder = `prebuilds/${platform}-${arch}`
  if (platform !== 'linux') return [`${folder}/fd-broker.node`]
  return ORDER[libcOf(process.execPath) ?? 'unknown'].map(libc => `${folder}/fd-broker.${libc}.node`)
}

function loadFirst(files: readonly string[], remedy: string): unknown {
  const failures: string[] = []
  let cause: unknown
  for (const file of files) {
    if (!existsSync(file)) {
      failures.push(`${file}: there is no such file`)
      continue
    }
    try {
      const addon: unknown = require(file)
      loaded = file
      return addon
    } catch (error) {
      cause ??= error
      failures.push(reason(file, error))
    }
  }
  const libc = process.platform === 'linux' ? `, ${libcOf(process.execPath) ?? 'C library unknown'}` : ''
  throw new FdbError(
    'ERR_FDB_ADDON',
    `no addon could be loaded for ${process.platform}-${process.arch}${libc} (${failures.join('; ')}): ${remedy}`,
    { cause, details: { failures } },
  )
}

function reason(file: string, error: unknown): string {
  const said = error instanceof Error ? error.message : String(error)
  return said.includes(file) ? said : `${file}: ${said}`
}

/**
 * The folder of this package, wherever the code is that was made of this file: `dist/kernel`, or a bundle in `dist`. Inside the bundle of an
 * application: where that finds the package.
 */
function packageRoot(): string {
  const here = dirname(thisFile())
  for (let folder = here; folder !== dirname(folder); folder = dirname(folder)) {
    if (isOurs(join(folder, 'package.json'))) return folder
  }
  try {
    return dirname(require.resolve('fd-broker/package.json'))
  } catch {
    return here
  }
}

function isOurs(manifest: string): boolean {
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === 'fd-broker'
}
