import type { LentFd } from './for-node.js'
import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/** Bytes that have left a socket for another one. */
export interface Spliced {
  /** 0 if the peer of the first socket has sent FIN. */
  readonly taken: number
  /** The last of the bytes, for which the other socket has no room; null if it has taken all of them. */
  readonly rest: Buffer | null
  /** The other socket is broken: nothing will take the rest. */
  readonly failure: NativeError | null
}

const NOTHING_READ = -1

/** The pipe through which all bytes go: empty between two calls, so all sockets of the thread share one. */
class Pipe {
  readonly #out: OwnedFd
  readonly #into: OwnedFd
  readonly #result = new Int32Array(2)

  constructor() {
    const [out, into] = native.openPipe()
    this.#out = OwnedFd.own(out, 'bytes that pass')
    this.#into = OwnedFd.own(into, 'bytes that pass')
  }

  pass(from: LentFd, to: LentFd, most: number): Spliced | null | undefined {
    const taken = native.splice(from, to, this.#out.raw, this.#into.raw, most, this.#result)
    if (taken === NOTHING_READ) return undefined
    if (taken < 0) return null
    const [left, errno] = this.#result as unknown as [number, number]
    const failure = errno === 0 ? null : native.failure(errno, 'splice')
    return { taken, rest: left === 0 ? null : this.#read(left), failure }
  }

  #read(length: number): Buffer {
    const bytes = Buffer.allocUnsafeSlow(length)
    native.readPipe(this.#out.raw, bytes, 0, length)
    return bytes
  }

  close(): void {
    this.#out.close()
    this.#into.close()
  }
}

let pipe: Pipe | null = null

/**
 * Moves at most `most` bytes that have arrived at one stream socket to another, without copying them to this process. Returns undefined if there are none,
 * and null if this is not possible: then nothing was moved. Throws if the first socket is broken.
 *
 * @see splice(2)
 */
export function splice(from: LentFd, to: LentFd, most: number): Spliced | null | undefined {
  if (process.platform !== 'linux') return null
  try {
    pipe ??= new Pipe()
  } catch {
    // No descriptor is free.
    return null
  }
  try {
    return pipe.pass(from, to, most)
  } catch (error) {
    // Bytes may be in it.
    pipe.close()
    pipe = null
    throw error
  }
}
