import { at } from '../world.js'
import { closeFd, put, readFrom, writeInto } from './addon.js'
import { type File, fail } from './objects.js'
import {
  entries,
  link,
  lookUp,
  openPath,
  rename,
  room,
  type StatOptions,
  statsOf,
  syncFile,
  truncateFile,
  unlink,
} from './tree.js'

/** Makes a call in another thread of the process that runs now. */
function aside<T>(call: () => T, isSync = false): Promise<T> {
  const { p } = at
  return new Promise((resolve, reject) => {
    const attempt = () => {
      try {
        const result = call()
        return () => resolve(result)
      } catch (error) {
        return () => reject(error)
      }
    }
    const lateMs = p.world.tap?.takeLateness() ?? 0
    const { begin, end } = p.world.kernel.disk.delays(isSync)
    p.aside(attempt, { begin: begin + lateMs, end })
  })
}

/** A file that a process has opened in another thread. */
class Handle {
  readonly #file: File
  readonly #raw: number
  /** Calls that run, and one until close(). */
  #uses = 1
  #closing: Promise<void> | null = null
  #closed: () => void = () => {}

  constructor(file: File) {
    this.#file = file
    this.#raw = put(file)
  }

  /** As in Node, -1 when the file is closed. */
  get fd(): number {
    return this.#uses === 0 ? -1 : this.#raw
  }

  async read(into: Uint8Array, offset: number, length: number, position: number) {
    const part = into.subarray(offset, offset + length)
    return { bytesRead: await this.#call('read', file => readFrom(file, part, position)), buffer: into }
  }

  async write(from: Uint8Array, offset: number, length: number, position: number) {
    const part = from.subarray(offset, offset + length)
    return { bytesWritten: await this.#call('write', file => writeInto(file, part, position)), buffer: from }
  }

  stat(options?: StatOptions) {
    return this.#call('fstat', ({ inode }) => statsOf(inode, options))
  }

  truncate(size: number): Promise<void> {
    return this.#call('ftruncate', file => truncateFile(file, size))
  }

  sync(): Promise<void> {
    return this.#call('fsync', syncFile, true)
  }

  datasync(): Promise<void> {
    return this.#call('fdatasync', syncFile, true)
  }

  /** Waits for the calls that run. */
  close(): Promise<void> {
    if (this.#closing === null) {
      this.#closing = new Promise(resolve => {
        this.#closed = resolve
      })
      this.#release()
    }
    return this.#closing
  }

  async #call<T>(name: string, call: (file: File) => T, isSync = false): Promise<T> {
    at.p.world.enter(at.p, name)
    if (this.#uses === 0) fail('EBADF', name)
    this.#uses++
    try {
      return await aside(() => call(this.#file), isSync)
    } finally {
      this.#release()
    }
  }

  #release(): void {
    if (--this.#uses > 0) return
    void aside(() => closeFd(this.#raw)).then(this.#closed)
  }
}

/** The functions of `node:fs/promises` that the drivers call, for the process that runs now. */
export const simulatedPromises = {
  open: (path: string, flags: number, mode = 0o666) => aside(() => new Handle(openPath(path, flags, mode))),
  lstat: (path: string, options?: StatOptions) => aside(() => statsOf(lookUp(path, 'lstat'), options)),
  rename: (from: string, to: string) => aside(() => rename(from, to)),
  link: (from: string, to: string) => aside(() => link(from, to)),
  unlink: (path: string) => aside(() => unlink(path)),
  readdir: (path: string) => aside(() => entries(path)),
  statfs: (path: string) => aside(() => room(path)),
}
