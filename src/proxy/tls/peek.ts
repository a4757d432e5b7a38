import type { Socket } from 'node:net'
import { MOST_HELLO_BYTES, serverNameOf } from './client-hello.js'

export type PeekEnd = 'timeout' | 'broken-off'

/**
 * Looks which server name the client of a socket asks for, and puts back what it has read. `done` gets the name (null: none) or
 * why there will be none: then the socket is closed.
 */
export function peekServerName(
  raw: Socket,
  timeoutMs: number,
  done: (name: string | null, failed: PeekEnd | null) => void,
): void {
  let seen = Buffer.alloc(0)
  let late = false
  const look = () => {
    for (let chunk = raw.read(); chunk !== null; chunk = raw.read()) {
      seen = seen.length === 0 ? chunk : Buffer.concat([seen, chunk])
    }
    const name = serverNameOf(seen)
    if (name === undefined && seen.length < MOST_HELLO_BYTES) return
    leave()
    raw.unshift(seen)
    done(name ?? null, null)
  }
  const gone = () => {
    leave()
    done(null, late ? 'timeout' : 'broken-off')
  }
  const ignore = () => {}
  const timer = setTimeout(() => {
    late = true
    raw.destroy()
  }, timeoutMs)
  const leave = () => {
    clearTimeout(timer)
    raw.off('readable', look).off('close', gone).off('error', ignore)
  }
  raw.on('readable', look).on('close', gone).on('error', ignore)
}
