import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { hasSecondName } from '../listeners/index.js'

type Call = (path: unknown, ...rest: unknown[]) => unknown
type Functions = Record<string, Call>

/** Paths of Unix sockets that the program has removed, and that are still there. */
const left = new Set<string>()

/**
 * Leaves the path of a service's Unix socket when the program removes it by `node:fs`: many programs do so before they listen, or when they end, and
 * clients of the version that serves need the path. The service removes it at its end. If the program listens there itself, its socket replaces it: see {@link takeLeftPath}.
 */
export function leaveServicePaths(): void {
  for (const name of ['unlink', 'rm']) {
    replace(fs, `${name}Sync`, remove => (path, ...rest) => {
      if (!leaves(path)) remove(path, ...rest)
    })
    replace(fs, name, remove => (path, ...rest) => {
      const done = rest.at(-1)
      if (typeof done !== 'function' || pathOf(path) === null) return remove(path, ...rest)
      fs.lstat(path as fs.PathLike, (_error, stats) => {
        if (stats?.isSocket() && leaves(path)) done(null)
        else remove(path, ...rest)
      })
    })
    replace(fs.promises, name, remove => async (path, ...rest) => {
      const isSocket = await fs.promises.lstat(path as fs.PathLike).then(
        stats => stats.isSocket(),
        () => false,
      )
      if (!isSocket || !leaves(path)) await remove(path, ...rest)
    })
  }
  // For programs that import the functions by name.
  syncBuiltinESMExports()
}

/** Reports whether the program has removed the path, and it was left. */
export function isLeftPath(path: string): boolean {
  const absolute = resolve(path)
  return left.has(absolute) && hasSecondName(absolute)
}

/** As {@link isLeftPath}. The caller replaces the path: afterwards it counts as the program's own. */
export function takeLeftPath(path: string): boolean {
  return isLeftPath(path) && left.delete(resolve(path))
}

function leaves(given: unknown): boolean {
  const path = pathOf(given)
  if (path === null || !hasSecondName(path)) return false
  left.add(path)
  return true
}

/** Returns the absolute path that is given to a function of `node:fs`; null if it accepts no such value. */
function pathOf(given: unknown): string | null {
  try {
    if (given instanceof URL) return fileURLToPath(given)
    if (typeof given === 'string') return resolve(given)
    return Buffer.isBuffer(given) ? resolve(given.toString()) : null
  } catch {
    return null
  }
}

function replace(object: object, name: string, by: (original: Call) => Call): void {
  const functions = object as Functions
  const original = functions[name]!
  const call = by(original)
  Object.defineProperties(call, Object.getOwnPropertyDescriptors(original))
  functions[name] = call
}
