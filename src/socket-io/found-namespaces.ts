import { afterReading } from '../base/after-reading.js'
import { findNamespace, type IoInside, type Namespace, type SocketRecord } from './internals.js'

/** The namespaces of a session's sockets; undefined: there is none any more. */
export type Found = Map<SocketRecord, Namespace | undefined>

/**
 * Calls `done` once with the namespaces of these sockets: at once if all are known, otherwise when the application has looked them up. With null if it has not
 * within `ms` milliseconds.
 */
export function findNamespaces(
  io: IoInside,
  sockets: readonly SocketRecord[],
  ms: number,
  done: (found: Found | null) => void,
): void {
  const found: Found = new Map()
  let isOver = false
  const end = (result: Found | null) => {
    isOver = true
    limit.clear()
    done(result)
  }
  const limit = afterReading(ms, () => end(null), { unref: true })
  const find = (at: number): void => {
    const record = sockets[at]
    if (record === undefined) {
      end(found)
      return
    }
    const auth = (record.handshake?.['auth'] as object) ?? {}
    findNamespace(io, record.namespace, auth, nsp => {
      // The application may answer twice, or too late.
      if (isOver || found.has(record)) return
      found.set(record, nsp)
      find(at + 1)
    })
  }
  try {
    find(0)
  } catch (error) {
    isOver = true
    limit.clear()
    throw error
  }
}
