import { closeSync, existsSync, openSync, readFileSync, readSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { pathForOthers, requireAs, thisFile } from '../base/lazy.js'
import { checkRuntime } from '../base/runtime.js'
import { FdbError } from '../errors.js'

/** The C libraries for which there are builds of the addon. */
type Libc = 'glibc' | 'musl'

/** PT_INTERP: the ELF program header with the path of the interpreter (loader). */
const INTERPRETER = 3
const ELF_64_BITS_LITTLE_ENDIAN = '7f454c460201'

/** Also `libc.so`, because `ld-musl-x86_64.so.1` is a link to it. */
const MUSL = /^(?:ld-musl-.*|libc\.so)$/
/** Also `ld-2.31.so`, because `ld-linux-x86-64.so.2` is a link to it in older releases. */
const GLIBC = /^ld(?:-linux|64|-2\.).*$/

/**
 * Returns the C library of a program, or undefined if it is unknown. Reads the path of the loader in the program's file (`/lib/ld-musl-x86_64.so.1`);
 * a file without one may be the loader itself, started with the program as an argument. `process.report` would take milliseconds, and
 * `/etc/alpine-release` or `ldd` show the machine's library, which may not be the program's.
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
    return undefined // this user may execute the file, but not read it
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

/** The file that `npm run build:native` builds in a clone of the repository. */
const OWN_BUILD = 'build/Release/fd_broker.node'

let loaded: string | null = null

/** Returns the path of the loaded addon, or null if none is loaded or its file no longer exists. */
export function addonFile(): string | null {
  return loaded !== null && existsSync(loaded) ? loaded : null
}

/**
 * Loads only the file of FD_BROKER_ADDON, if that is set. Otherwise loads the addon that was built in a clone, or the prebuilt one for this platform
 * and C library.
 *
 * @throws {FdbError} ERR_FDB_ADDON with all files that it tried, and the reason for each; ERR_FDB_PLATFORM on Windows, and in Bun and Deno.
 */
export function loadAddon(root?: string): unknown {
  if (process.platform === 'win32') {
    throw new FdbError(
      'ERR_FDB_PLATFORM',
      'fd-broker moves file descriptors between processes; Windows has no such thing. Run it on Linux (or macOS, untested).',
    )
  }
  checkRuntime()
  const override = process.env.FD_BROKER_ADDON
  if (override) return loadFirst([resolve(override)], 'correct FD_BROKER_ADDON, or unset it')
  const folder = root ?? packageRoot()
  return loadFirst(
    [OWN_BUILD, ...prebuilt(process.platform, process.arch)].map(file => join(folder, file)),
    'install the package again if files of it are missing; if no prebuilt addon fits this platform, build one in a clone of the repository (npm run build:native) and give its path in FD_BROKER_ADDON',
  )
}

/**
 * Returns the prebuilt addons to try, in order, relative to the package's folder. musl's loader loads the glibc addon without an error, and the
 * process crashes at the first call: so the glibc addon is never tried on musl, and is tried last if the C library is unknown. glibc's loader refuses the musl addon.
 */
function prebuilt(platform: string, arch: string): string[] {
  const folder = `prebuilds/${platform}-${arch}`
  if (platform !== 'linux') return [`${folder}/fd-broker.node`]
  return ORDER[libcOf(process.execPath) ?? 'unknown'].map(libc => `${folder}/fd-broker.${libc}.node`)
}

/** The remedy for a Node that loads no addon. */
const ALLOWED =
  'start Node without --no-addons; with --permission (--experimental-permission) add --allow-addons, --allow-fs-read=* and --allow-fs-write=*'

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
      loaded = pathForOthers(file)
      return addon
    } catch (error) {
      cause ??= error
      failures.push(reason(file, error))
    }
  }
  const isForbidden = (cause as NodeJS.ErrnoException | undefined)?.code === 'ERR_DLOPEN_DISABLED'
  const libc = process.platform === 'linux' ? `, ${libcOf(process.execPath) ?? 'C library unknown'}` : ''
  throw new FdbError(
    'ERR_FDB_ADDON',
    `no addon could be loaded for ${process.platform}-${process.arch}${libc} (${failures.join('; ')}): ${isForbidden ? ALLOWED : remedy}`,
    { cause, details: { failures } },
  )
}

function reason(file: string, error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return message.includes(file) ? message : `${file}: ${message}`
}

/**
 * Returns the folder of this package. Works in `dist/kernel` and in a bundle in `dist`; inside an application's bundle it returns the folder of the
 * package that the bundle resolves.
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
