import { type FileHandle, mkdir, open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'

/** Rotated files that are kept besides the current one. */
const KEPT = 5
/** Delay before a failed write is retried. */
const RETRY_MS = 1_000
const NEWLINE = 10
const UNITS: Readonly<Record<string, number>> = { B: 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }

/** Output that could not be written. */
interface Lost {
  bytes: number
  lines: number
  readonly why: string
  retryAt: number
}

/**
 * A file for the output of a program, rotated by its size at the end of a line. If it cannot be written (a full disk), the output is dropped
 * and counted until it can, then one line reports how much is missing. No method rejects.
 */
export class RotatedLog {
  readonly #path: string
  readonly #limit: number
  #file: FileHandle | null = null
  #size = 0
  #rotateAt = 0
  #lost: Lost | null = null
  /** True if the output so far ends within a line. */
  #midLine = false
  /** True if the file ends within a line. */
  #cut = false
  #timer: NodeJS.Timeout | undefined
  /** The last operation. The next one waits for it. */
  #turn: Promise<void>

  /** `limit` is a number with its unit: `500K`, `10M`. */
  constructor(path: string, limit: string) {
    this.#path = path
    this.#limit = Number.parseInt(limit, 10) * (UNITS[limit.at(-1) ?? ''] ?? 1)
    this.#turn = this.#attempt(() => this.#open())
  }

  async write(output: Buffer): Promise<void> {
    await this.#inTurn(() => this.#write(output))
  }

  async close(): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#lost !== null) await this.#resume()
      clearInterval(this.#timer)
      await this.#attempt(() => this.#close())
    })
  }

  async #inTurn(operation: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(operation)
    await this.#turn
  }

  async #write(output: Buffer): Promise<void> {
    if (this.#lost === null) {
      await this.#put(output)
      return
    }
    // A line whose beginning was dropped is dropped up to its end.
    const end = this.#midLine ? lineEnd(output) : 0
    this.#drop(this.#lost, output.subarray(0, end))
    const rest = output.subarray(end)
    if (rest.length > 0 && performance.now() >= this.#lost.retryAt && (await this.#resume()))
      await this.#put(rest)
    else this.#drop(this.#lost, rest)
  }

  async #put(output: Buffer): Promise<void> {
    let rest = output
    if (this.#size >= this.#rotateAt) {
      const end = this.#midLine ? lineEnd(rest) : 0
      await this.#append(rest.subarray(0, end))
      rest = rest.subarray(end)
      if (!this.#midLine && rest.length > 0 && this.#lost === null) await this.#attempt(() => this.#rotate())
    }
    await this.#append(rest)
  }

  async #append(output: Buffer): Promise<void> {
    let rest = output
    const append = async () => {
      while (rest.length > 0) {
        const { bytesWritten } = await this.#file!.write(rest)
        this.#size += bytesWritten
        this.#midLine = this.#cut = rest[bytesWritten - 1] !== NEWLINE
        rest = rest.subarray(bytesWritten)
      }
    }
    if (this.#lost === null) await this.#attempt(append)
    if (this.#lost !== null) this.#drop(this.#lost, rest)
  }

  #drop(lost: Lost, output: Buffer): void {
    if (output.length === 0) return
    this.#midLine = output.at(-1) !== NEWLINE
    lost.bytes += output.length
    lost.lines += output.reduce((sum, byte) => sum + (byte === NEWLINE ? 1 : 0), 0)
  }

  /** Writes the line that reports the loss. Resolves with false if that fails too. */
  async #resume(): Promise<boolean> {
    const { bytes, lines, why } = this.#lost!
    this.#lost!.retryAt = performance.now() + RETRY_MS
    const counted = `${bytes} bytes (${lines} ${lines === 1 ? 'line' : 'lines'})`
    try {
      // The file may have been removed to make room.
      await this.#close()
      await this.#open()
      if (bytes > 0) await this.#report(`fd-broker: ${counted} are missing here: ${why}\n`)
    } catch {
      return false
    }
    this.#lost = null
    clearInterval(this.#timer)
    this.#timer = undefined
    return true
  }

  /** Writes a line as a whole, or rejects. */
  async #report(line: string): Promise<void> {
    const text = Buffer.from(this.#cut && this.#size > 0 ? `\n${line}` : line)
    try {
      await this.#file!.appendFile(text)
    } catch (error) {
      await this.#file!.truncate(this.#size)
      throw error
    }
    this.#size += text.length
    this.#cut = false
  }

  /** Calls an operation. If it rejects, output is dropped from now on, and the file is tried again each {@link RETRY_MS}. */
  async #attempt(operation: () => Promise<void>): Promise<void> {
    try {
      await operation()
    } catch (error) {
      const why = `this log could not be written: ${(error as Error).message}`
      this.#lost ??= { bytes: 0, lines: 0, why, retryAt: performance.now() + RETRY_MS }
      this.#timer ??= setInterval(() => this.#inTurn(() => this.#retry()), RETRY_MS)
    }
  }

  async #retry(): Promise<void> {
    if (this.#lost !== null && !this.#midLine) await this.#resume()
  }

  async #open(): Promise<void> {
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 })
    this.#file = await open(this.#path, 'a', 0o600)
    this.#size = (await this.#file.stat()).size
    this.#rotateAt = this.#limit
  }

  async #close(): Promise<void> {
    const file = this.#file
    this.#file = null
    await file?.close()
  }

  async #rotate(): Promise<void> {
    // If the file cannot be renamed, it grows by this much before the next attempt.
    this.#rotateAt = this.#size + this.#limit
    for (let count = KEPT - 1; count > 0; count--)
      await renamed(`${this.#path}.${count}`, `${this.#path}.${count + 1}`)
    if (!(await renamed(this.#path, `${this.#path}.1`))) return
    await this.#close()
    await this.#open()
  }
}

async function renamed(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch {
    return false
  }
}

/** Returns the position after the first end of a line; the length if there is none. */
function lineEnd(output: Buffer): number {
  return output.indexOf(NEWLINE) + 1 || output.length
}
