import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FdbError } from '../errors.js'
import { type Libc, libcOf } from './libc.js'

const require = createRequire(import.meta.url)

const ORDER: Record<Libc | 'unknown', readonly Libc[]> = {
  glibc: ['glibc', 'musl'],
  musl: ['musl'],
  unknown: ['musl', 'glibc'],
}

/** What `npm run build:native` makes in a clone. */
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
    'install the package again if files are missing; where no prebuilt one fits, build it in a clone (npm run build:native) and name it by FD_BROKER_ADDON',
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
  const here = dirname(fileURLToPath(import.meta.url))
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
