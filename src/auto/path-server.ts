import { existsSync, lstatSync, renameSync, unlinkSync } from 'node:fs'
import type net from 'node:net'
import { dirname, resolve } from 'node:path'
import { MAX_UNIX_NAME } from '../listeners/index.js'
import { handleOf, nameSocket } from '../node/held-handle.js'
import { setMethod } from '../node/observed-events.js'

/** Handles whose paths go with them. */
const removing = new WeakSet<object>()

/**
 * Lets a server listen at a path so that its `close()` does not remove the path once a member has the server: Node removes the path that it has
 * bound, but by then the next version listens there. Therefore binds a temporary path, and renames it. `args` are those of `server.listen()`.
 */
export function listenAt(
  server: net.Server,
  path: string,
  args: readonly unknown[],
  original: net.Server['listen'],
): void {
  const other = `${resolve(path)}.${process.pid}`
  const listen = (...given: unknown[]) => Reflect.apply(original, server, given)
  // Node's own listen() reports the error if the path exists or its folder does not. An abstract name is no file, so that Node does not remove it.
  const free = !existsSync(path) && existsSync(dirname(resolve(path)))
  if (path.startsWith('\0') || !free || Buffer.byteLength(other) > MAX_UNIX_NAME) {
    listen(...args)
    return
  }
  const [first, ...rest] = args
  listen(typeof first === 'object' ? { ...first, path: other } : other, ...rest)
  if (!server.listening) return
  renameSync(other, path)
  nameSocket(server, path)
  removeAtClose(server, resolve(path))
}

/** The path stays when the server closes. */
export function leavePathAtClose(server: net.Server): void {
  const handle = handleOf(server)
  if (handle !== null && removing.delete(handle)) Reflect.deleteProperty(handle, 'close')
}

/** Removes the path when the server closes, as Node does with the path that it has bound. */
function removeAtClose(server: net.Server, path: string): void {
  const handle = handleOf(server) as { close(...args: unknown[]): unknown } | null
  const made = lstatSync(path, { bigint: true, throwIfNoEntry: false })
  if (handle === null || made === undefined) return
  const { close } = handle
  removing.add(handle)
  setMethod(handle, 'close', (...args: unknown[]) => {
    try {
      const now = lstatSync(path, { bigint: true, throwIfNoEntry: false })
      if (removing.has(handle) && now?.ino === made.ino && now.dev === made.dev) unlinkSync(path)
    } catch {
      // This process may not see or remove the path any more: Node leaves it too.
    }
    return Reflect.apply(close, handle, args)
  })
}
