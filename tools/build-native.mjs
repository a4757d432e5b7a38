// Builds the addon with node-gyp: `node tools/build-native.mjs [--force] [--asan]`.
//
// Usually takes the headers from an installed Node, and then downloads nothing (tools/node-headers.mjs). Does nothing if the addon is newer
// than its sources; `--force` builds it in any case. `--asan` builds another addon, with AddressSanitizer and UndefinedBehaviorSanitizer, in
// build/asan, and leaves the normal addon alone.
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

/** Copies the sources for the sanitizer variant: node-gyp always builds into the folder `build` next to binding.gyp. */
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
  // If only the time of a source has changed, make does not write the addon, and isFresh() would stay false.
  utimesSync(addon, now, now)
  process.stdout.write(
    `build-native: built ${asan ? 'the sanitizer variant' : basename(addon)} with the headers of ${nodedir}\n`,
  )
}
