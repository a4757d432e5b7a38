import { mkdirSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { createStream, type RotatingFileStream } from 'rotating-file-stream'

/** Rotated files that are kept besides the current one. */
export const KEPT_FILES = 5
/** Delay before a file that could not be written is opened again. */
const REOPEN_RETRY_MS = 1_000
const NEWLINE = 10

/** Returns the path of a rotated file; `count` is 1 for the newest. */
export function rotatedPath(path: string, count: number): string {
  return `${path}.${count}`
}

/** Output that could not be written. */
interface Lost {
  bytes: number
  readonly why: string
  readonly since: number
}

/**
 * A file for the output of a program, rotated by its size. While the file cannot be written (a full disk), drops the output. Then one line reports how
 * much is missing. No method rejects.
 */
export class RotatedLog {
  readonly #path: string
  readonly #size: string
  #stream: RotatingFileStream | null = null
  #lost: Lost | null = null
  /** Whether the last output ended within a line. */
  #midLine = false

  /** `size` is a number with its unit: `500K`, `10M`. */
  constructor(path: string, size: string) {
    this.#path = path
    this.#size = size
  }

  async write(output: Buffer): Promise<void> {
    // A line whose beginning was dropped is dropped up to its end.
    const from = this.#lost !== null && this.#midLine ? output.indexOf(NEWLINE) + 1 || output.length : 0
    this.#midLine = output.at(-1) !== NEWLINE
    if (this.#lost !== null) this.#lost.bytes += from
    const rest = output.subarray(from)
    if (rest.length > 0 && !(await this.#append(rest))) this.#lost!.bytes += rest.length
  }

  async close(): Promise<void> {
    if (this.#lost !== null) await this.#append(Buffer.alloc(0), 0)
    const stream = this.#stream
    if (stream !== null) await new Promise(resolve => stream.end(resolve))
  }

  /** Resolves with false if the file cannot be written. */
  async #append(output: Buffer, retryMs = REOPEN_RETRY_MS): Promise<boolean> {
    const lost = this.#lost
    if (lost !== null && performance.now() - lost.since < retryMs) return false
    try {
      // The file may end within a line.
      const report =
        lost === null ? '' : `\nfd-broker: at least ${lost.bytes} bytes are missing here: ${lost.why}\n`
      await this.#put(Buffer.concat([Buffer.from(report), output]))
      this.#lost = null
      return true
    } catch (error) {
      this.#stream?.destroy()
      this.#stream = null
      const why = `this log could not be written: ${(error as Error).message}`
      this.#lost = { bytes: lost?.bytes ?? 0, why: lost?.why ?? why, since: performance.now() }
      return false
    }
  }

  #put(output: Buffer): Promise<void> {
    this.#stream ??= this.#open()
    const stream = this.#stream
    return new Promise((resolve, reject) => {
      stream.write(output, error => (error ? reject(error) : resolve()))
    })
  }

  #open(): RotatingFileStream {
    const path = dirname(this.#path)
    mkdirSync(path, { recursive: true, mode: 0o700 })
    const stream = createStream(basename(this.#path), {
      path,
      size: this.#size,
      rotate: KEPT_FILES,
      mode: 0o600,
    })
    // Each write reports its own error.
    return stream.on('error', () => {})
  }
}
