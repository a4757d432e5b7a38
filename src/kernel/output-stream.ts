import fs from 'node:fs'

/** Lines that are written together have at most this many bytes, so that processes that share an output do not mix their lines. */
const MOST_TOGETHER = 16 * 1024
/** Delay before a write to a slow reader is repeated. */
const READER_RETRY_MS = 100
const NOTHING = Buffer.alloc(0)
/** The output of a process, which other code may use too. */
const KEPT_OPEN: ReadonlySet<number> = new Set([1, 2])

export interface OutputOptions {
  /** Path of a file, to which the stream appends, or a descriptor. */
  readonly dest: string | number
  /** Whether to write in the turn of {@link OutputStream.write}, instead of by a thread. */
  readonly sync: boolean
  /** Limit for unwritten bytes; text beyond it is dropped. 0: no limit. */
  readonly most: number
  /** Whether to wait for a slow reader, instead of failing. */
  readonly retries: () => boolean
}

export interface OutputEvents {
  /** A write has failed. The stream keeps the bytes, and the next call of `write()` tries again. */
  readonly failed: (error: NodeJS.ErrnoException) => void
  readonly dropped: (text: string) => void
  /** All text is written, by a thread. */
  readonly drained: () => void
}

/** Writes text to a file or a descriptor, in order. */
export class OutputStream {
  readonly #fd: number
  readonly #options: OutputOptions
  readonly #events: OutputEvents
  /** Bytes being written, and the texts after them. */
  #now: Buffer = NOTHING
  #later: { text: string; bytes: number }[] = []
  /** Unwritten bytes. */
  #waiting = 0
  #writing = false
  #ending = false
  #closed = false

  /** Rejects with the error of open(2). */
  static async open(options: OutputOptions, events: OutputEvents): Promise<OutputStream> {
    const { dest } = options
    if (typeof dest === 'number') return new OutputStream(dest, options, events)
    const fd = await new Promise<number>((resolve, reject) => {
      if (options.sync) resolve(fs.openSync(dest, 'a'))
      else fs.open(dest, 'a', (error, fd) => (error ? reject(error) : resolve(fd)))
    })
    return new OutputStream(fd, options, events)
  }

  private constructor(fd: number, options: OutputOptions, events: OutputEvents) {
    this.#fd = fd
    this.#options = options
    this.#events = events
  }

  /** Writes whole lines. Empty text repeats a write that has failed. */
  write(text: string): void {
    const bytes = Buffer.byteLength(text)
    const { most } = this.#options
    if (most > 0 && this.#waiting + bytes > most) this.#events.dropped(text)
    else this.#add(text, bytes)
  }

  /** Closes the stream when all text is written. A failed write is not repeated. */
  end(): void {
    this.#ending = true
    if (this.#writing) return
    if (this.#waiting === 0) this.destroy()
    else this.#writeOn()
  }

  /** Closes the stream and drops the unwritten text. */
  destroy(): void {
    if (this.#closed) return
    this.#closed = true
    if (!KEPT_OPEN.has(this.#fd)) fs.close(this.#fd, () => {})
  }

  #add(text: string, bytes: number): void {
    const last = this.#later.at(-1)
    if (last !== undefined && last.bytes + bytes <= MOST_TOGETHER) {
      last.text += text
      last.bytes += bytes
    } else if (bytes > 0) this.#later.push({ text, bytes })
    this.#waiting += bytes
    if (!this.#writing) this.#writeOn()
  }

  #writeOn(): void {
    if (this.#closed) return
    this.#writing = true
    if (this.#options.sync) this.#writeNow()
    else this.#writeByThread()
  }

  #writeNow(): void {
    try {
      while (this.#next()) this.#wrote(fs.writeSync(this.#fd, this.#now))
    } catch (error) {
      this.#failed(error as Error)
      return
    }
    this.#writing = false
    if (this.#ending) this.destroy()
  }

  #writeByThread(): void {
    this.#next()
    fs.write(this.#fd, this.#now, (error, bytes) => {
      if (error !== null) {
        if (!isBusy(error) || !this.#options.retries()) this.#failed(error)
        else setTimeout(() => this.#writeByThread(), READER_RETRY_MS)
        return
      }
      this.#wrote(bytes)
      if (this.#waiting > 0) {
        this.#writeByThread()
        return
      }
      this.#writing = false
      if (this.#ending) this.destroy()
      else this.#events.drained()
    })
  }

  /** Returns whether `#now` has bytes to write. */
  #next(): boolean {
    if (this.#now.length === 0) this.#now = Buffer.from(this.#later.shift()?.text ?? '')
    return this.#now.length > 0
  }

  #wrote(bytes: number): void {
    this.#now = this.#now.subarray(bytes)
    this.#waiting -= bytes
  }

  #failed(error: Error): void {
    this.#writing = false
    this.#events.failed(error)
  }
}

function isBusy({ code }: NodeJS.ErrnoException): boolean {
  return code === 'EAGAIN' || code === 'EBUSY'
}
