import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { hasSecondName } from '../listeners/index.js'

type Call = (path: unknown, ...rest: unknown[]) => unknown

/** A program that removes the same socket so often, without listening there, waits for its end: then it is removed. */
const MOST_TIMES = 10

/** Sockets that the program has removed, and whose paths are still there, each with how often. */
const left = new Map<string, number>()
/** Node's own, saved before it is replaced. */
const { unlinkSync } = fs

/**
 * Leaves the path of a service's Unix socket when the program removes it by `node:fs`: many programs do so before they listen, or when they end, and
 * clients of the version that serves need the path. The service removes it at its end. `listenedAt`: whether a process listens there; the path of a
 * service that was killed is removed.
 */
export function leaveServicePaths(listenedAt: (path: string) => boolean): void {
  isListenedAt = listenedAt
  const leaves = (given: unknown): boolean => {
    const path = pathOf(given)
    if (path === null || !hasSecondName(path) || !isListenedAt(path)) return false
    const socket = socketAt(path)
    if (socket === null) return false
    const times = (left.get(socket) ?? 0) + 1
    if (times <= MOST_TIMES) left.set(socket, times)
    return times <= MOST_TIMES
  }
  for (const name of ['unlink', 'rm']) {
    replace(fs, `${name}Sync`, remove => (path, ...rest) => {
      if (!leaves(path)) remove(path, ...rest)
    })
    replace(fs, name, remove => (path, ...rest) => {
      const done = rest.at(-1)
      if (typeof done === 'function' && leaves(path)) process.nextTick(done, null)
      else remove(path, ...rest)
    })
    replace(fs.promises, name, remove => async (path, ...rest) => {
      if (!leaves(path)) await remove(path, ...rest)
    })
  }
  // For programs that import the functions by name.
  syncBuiltinESMExports()
}

/**
 * Removes a path that was left, if no process listens there any more. Called before the program listens there itself: if a version serves there, the program
 * gets EADDRINUSE, as at a port.
 */
export function removeLeftPath(path: string): void {
  if (!takeLeftPath(path) || isListenedAt(path)) return
  try {
    unlinkSync(path)
  } catch {
    // Another process has removed it, or this user may not: Node's own listen() reports that.
  }
}

/** Reports whether the program has removed the path, and it was left; the next call returns false. */
export function takeLeftPath(path: string): boolean {
  const socket = left.size === 0 ? null : socketAt(path)
  return socket !== null && left.delete(socket)
}

let isListenedAt: (path: string) => boolean = () => false

/** Returns what identifies the socket at the path; null if there is none. A file system may use the inode of a deleted file again. */
function socketAt(path: string): string | null {
  try {
    const stats = fs.lstatSync(path, { bigint: true })
    return stats.isSocket() ? `${stats.dev} ${stats.ino} ${stats.birthtimeNs}` : null
  } catch {
    return null
  }
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
  const functions = object as Record<string, Call>
  const original = functions[name]!
  const call = by(original)
  Object.defineProperties(call, Object.getOwnPropertyDescriptors(original))
  try {
    functions[name] = call
  } catch {
    // Another library has frozen it. The version that serves restores a removed path.
  }
}
