// @ts-check
// Which packages reach a user, by the lock file: those that installing this one brings, and those whose code is inside of it.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/**
 * @typedef {object} Shipped
 * @property {string} name
 * @property {string} version
 * @property {string} path in node_modules of this checkout
 * @property {string} license SPDX; NOASSERTION: it does not say
 * @property {string} integrity as the lock file has it
 * @property {string} resolved the address of its tarball
 * @property {boolean} inside its code is in the files of this one
 * @property {string[]} needs paths of those that it depends on
 */

/**
 * What these packages lead to, each once, ordered by path. Optional ones, which are for some platforms only, are left out.
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
    const one = shipped(lock, path, false)
    found.set(path, one)
    for (const other of Object.keys(lock.packages[path].dependencies ?? {})) add(other, path)
  }
  for (const name of names) add(name, '')
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/**
 * Those of which the bundler has taken code.
 *
 * @param {any} lock package-lock.json
 * @param {readonly string[]} modules paths of what was bundled
 * @returns {Shipped[]}
 */
export function insideBy(lock, modules) {
  const paths = modules.map(path => /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? '')
  return [...new Set(paths.filter(path => path !== ''))].sort().map(path => shipped(lock, path, true))
}

/**
 * What the bundler took the last time that this checkout was built.
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
 * As Node looks a package up: in the folder of who asks, then in those above.
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
