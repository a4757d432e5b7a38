import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

/** A terminal is closed; a pipe or a socket has no reader. */
const GONE: readonly unknown[] = ['EIO', 'EPIPE', 'ECONNRESET']
const OUTPUTS: readonly unknown[] = [1, 2]

type Write = (fd: unknown, ...rest: unknown[]) => unknown
type Written = (error: unknown, bytes: number, data: unknown) => void

/**
 * Lets a write of `node:fs` to stdout or stderr succeed where the reader is gone, and tells of each. Loggers write so, past the streams of
 * the process: pino, for one, ends the process at the error, or waits in a loop for the terminal to come back.
 */
export function dropWrites(dropped: () => void): void {
  for (const name of ['writeSync', 'writevSync'] as const) {
    replace(name, write => (fd, ...rest) => {
      if (!OUTPUTS.includes(fd)) return write(fd, ...rest)
      try {
        return write(fd, ...rest)
      } catch (error) {
        if (!isGone(fd, error)) throw error
        dropped()
        return bytesOf(rest)
      }
    })
  }
  for (const name of ['write', 'writev'] as const) {
    replace(name, write => (fd, ...rest) => {
      const done = rest.at(-1)
      if (!OUTPUTS.includes(fd) || typeof done !== 'function') return write(fd, ...rest)
      const told: Written = (error, bytes, data) => {
        const drops = error !== null && isGone(fd, error)
        if (drops) dropped()
        ;(done as Written)(drops ? null : error, drops ? bytesOf(rest) : bytes, data)
      }
      return write(fd, ...rest.slice(0, -1), told)
    })
  }
  syncBuiltinESMExports()
}

function replace(name: 'write' | 'writeSync' | 'writev' | 'writevSync', by: (write: Write) => Write): void {
  const own = fs[name] as Write
  const more = by(own)
  // What `promisify` needs, too.
  Object.defineProperties(more, Object.getOwnPropertyDescriptors(own))
  Object.assign(fs, { [name]: more })
}

/** A file on a broken disk is no output without a reader. */
function isGone(fd: unknown, error: unknown): boolean {
  return GONE.includes((error as NodeJS.ErrnoException).code) && !fs.fstatSync(fd as number).isFile()
}

/** What a write with these arguments writes: (text, position, encoding), (bytes, offset, length), (bytes, { offset, length }) or (list of bytes). */
function bytesOf([data, second, third]: readonly unknown[]): number {
  if (typeof data === 'string')
    return Buffer.byteLength(data, typeof third === 'string' ? (third as BufferEncoding) : 'utf8')
  if (Array.isArray(data)) return data.reduce((sum: number, part: Uint8Array) => sum + part.byteLength, 0)
  const { byteLength } = data as Uint8Array
  const [offset, length] =
    typeof second === 'object' && second !== null
      ? [(second as { offset?: unknown }).offset, (second as { length?: unknown }).length]
      : [second, third]
  if (typeof length === 'number') return length
  return typeof offset === 'number' ? byteLength - offset : byteLength
}
