import { existsSync, renameSync } from 'node:fs'
import net from 'node:net'
import { resolve } from 'node:path'
import { nameSocket } from '../node/held-handle.js'

/** The kernel takes no longer path. */
const LONGEST = 107

/**
 * Has a server listen at a path so that its close leaves the path alone: Node removes the path that it has bound, at which the next version
 * listens by then. It binds another, which takes the place of the one that was asked for. `args` are those of `server.listen()`.
 */
export function listenAt(server: net.Server, path: string, args: readonly unknown[]): void {
  const other = `${resolve(path)}.${process.pid}`
  const bind = (...given: unknown[]) => Reflect.apply(originalListen, server, given)
  // A path that exists is an error of Node's, and an abstract name is no file.
  if (path.startsWith('\0') || existsSync(path) || Buffer.byteLength(other) > LONGEST) {
    bind(...args)
    return
  }
  const [first, ...rest] = args
  bind(typeof first === 'object' ? { ...first, path: other } : other, ...rest)
  if (!server.listening) return
  renameSync(other, path)
  nameSocket(server, path)
}

/** Before anything replaces it. */
export const originalListen = net.Server.prototype.listen
