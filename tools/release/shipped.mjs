// @ts-check
// Finds in the lock file the packages that a user gets: those that npm installs with this package, and those bundled in its files.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * @typedef {object} Shipped
 * @property {string} name
 * @property {string} version
 * @property {string} path in node_modules of this checkout
 * @property {string} license SPDX; NOASSERTION if unknown
 * @property {string} integrity checksum, as in the lock file
 * @property {string} resolved the address of its tarball
 * @property {boolean} inside whether it is bundled
 * @property {string[]} needs paths of its dependencies
 */

/**
 * Returns these packages and all their dependencies, each once, ordered by path. Leaves out optional ones, which are for some platforms only.
 *
 * @param {any} lock package-lock.json
 * @param {readonly string[]} names of packages that this one depends on
 * @returns {Shipped[]}
 */
export function installedWith(lock, names) {
  /** @type {Map<string, Shipped>} */
  const found = new Map()
  /** @param {string} name @param {string} from */
  const add = (name, from) => {
    const path = resolve(lock, name, from)
    if (path === null) throw new Error(`package-lock.json has no ${name} for ${from || 'the package itself'}`)
    if (found.has(path)) return
    found.set(path, shipped(lock, path, false))
    for (const other of Object.keys(lock.packages[path].dependencies ?? {})) add(other, path)
  }
  for (const name of names) add(name, '')
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/**
 * Returns the packages of bundled modules.
 *
 * @param {any} lock package-lock.json
 * @param {readonly string[]} modules their paths
 * @returns {Shipped[]}
 */
export function insideBy(lock, modules) {
  const paths = modules.map(path => /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? '')
  return [...new Set(paths.filter(path => path !== ''))].sort().map(path => shipped(lock, path, true))
}

/**
 * Returns the paths of the modules that the last build has bundled.
 *
 * @param {string} root
 * @returns {string[]}
 */
export function bundledModules(root) {
  const file = join(root, 'build/bundle.json')
  return existsSync(file) ? Object.keys(JSON.parse(readFileSync(file, 'utf8')).inputs) : []
}

/** @param {any} lock @param {string} path @param {boolean} inside @returns {Shipped} */
function shipped(lock, path, inside) {
  const entry = lock.packages[path]
  if (entry === undefined) throw new Error(`package-lock.json has no ${path}`)
  const { version, license = 'NOASSERTION', integrity = '', resolved = '', dependencies = {} } = entry
  const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
  const needs = Object.keys(dependencies).flatMap(other => resolve(lock, other, path) ?? [])
  return { name, version, path, license, integrity, resolved, inside, needs }
}

/**
 * Returns the path of a package that `from` imports: like Node, searches the folder of `from`, then those above it. Null if there is none.
 *
 * @param {any} lock @param {string} name @param {string} from
 * @returns {string | null}
 */
function resolve(lock, name, from) {
  for (let folder = from; ; ) {
    const path = `${folder === '' ? '' : `${folder}/`}node_modules/${name}`
    if (lock.packages[path] !== undefined) return path
    if (folder === '') return null
    folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))
  }
}
