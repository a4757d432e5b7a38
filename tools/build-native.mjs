// Builds the addon with node-gyp: `node tools/build-native.mjs [--force] [--asan]`.
//
// The headers come from an installed Node, so that nothing is downloaded in the usual case (tools/node-headers.mjs).
// Nothing is done when the addon is newer than its sources. `--asan` builds a second one with AddressSanitizer
// and UndefinedBehaviorSanitizer into build/asan; the normal build stays as it is.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, utimesSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { findNodedir, packageFolder } from './node-headers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const force = process.argv.includes('--force')
const asan = process.argv.includes('--asan')
const folder = asan ? join(root, 'build', 'asan') : root
const addon = join(folder, 'build', 'Release', 'fd_broker.node')

function fail(text) {
  process.stderr.write(`build-native: ${text}\n`)
  process.exit(1)
}

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 << 20, ...options })
  return {
    ok: result.status === 0,
    text: `${result.stdout ?? ''}${result.stderr ?? ''}${result.error ?? ''}`,
  }
}

function headers() {
  try {
    return findNodedir(text => process.stderr.write(`build-native: ${text}\n`))
  } catch (error) {
    return fail(error.message)
  }
}

function sources() {
  return [
    join(root, 'binding.gyp'),
    ...readdirSync(join(root, 'native')).map(name => join(root, 'native', name)),
  ]
}

function isFresh() {
  if (!existsSync(addon)) return false
  const built = statSync(addon).mtimeMs
  return sources().every(path => statSync(path).mtimeMs < built)
}

/** The sanitizer variant has a folder of its own: node-gyp always builds into ./build of where binding.gyp is. */
function copySources() {
  mkdirSync(folder, { recursive: true })
  cpSync(join(root, 'binding.gyp'), join(folder, 'binding.gyp'))
  rmSync(join(folder, 'native'), { recursive: true, force: true })
  cpSync(join(root, 'native'), join(folder, 'native'), { recursive: true, preserveTimestamps: true })
}

function nodeGyp(gyp, nodedir, command, ...rest) {
  const args = [command, `--nodedir=${nodedir}`, '-C', folder, '--loglevel=warn', ...rest]
  const done = run(process.execPath, [join(gyp, 'bin', 'node-gyp.js'), ...args], {
    env: { ...process.env, npm_config_nodedir: nodedir },
  })
  if (done.ok) return
  process.stderr.write(done.text)
  fail(`node-gyp ${command} failed (headers from ${nodedir}). A C compiler, make and Python 3 are needed.`)
}

if (!force && isFresh()) {
  process.stdout.write(`build-native: ${basename(addon)} is up to date\n`)
} else {
  const gyp = packageFolder('node-gyp')
  if (gyp === undefined) fail(`node-gyp is not installed: run npm install in ${root} first`)
  const nodedir = headers()
  if (asan) copySources()
  if (force) rmSync(join(folder, 'build', 'Release'), { recursive: true, force: true })
  nodeGyp(gyp, nodedir, 'configure', ...(asan ? ['--', '-Dfdb_sanitize=1'] : []))
  nodeGyp(gyp, nodedir, 'build')
  const now = new Date()
  utimesSync(addon, now, now) // make leaves it alone when only a time has changed
  process.stdout.write(
    `build-native: built ${asan ? 'the sanitizer variant' : basename(addon)} with the headers of ${nodedir}\n`,
  )
}
