import { copyWords, wordsOf } from './bytes.js'

/** Up to this length a loop writes text, because a call of `Buffer.write` costs 20 to 50 ns. */
const WRITTEN_BY_LOOP = 16
/** Up to this many bytes {@link copyWords} is faster than `Buffer.copy`. */
const COPIED_IN_WORDS = 320
const FIRST_BYTES = 1024
/** The list of spare writers has at most 1024 writers of at most 8 KiB each. */
const MAX_SPARE = 1024
const MAX_SPARE_BYTES = 8192

const spare: HeadWriter[] = []

/** Builds a head from bytes and latin1 text. The output is valid until {@link reset}. */
export class HeadWriter {
  #bytes = Buffer.allocUnsafeSlow(FIRST_BYTES)
  #words = new DataView(this.#bytes.buffer)
  #length = 0

  static acquire(): HeadWriter {
    return spare.pop() ?? new HeadWriter()
  }

  /** Gives the writer back for reuse. Call it at most once; do not use the writer afterwards. */
  release(): void {
    if (spare.length < MAX_SPARE && this.#bytes.length <= MAX_SPARE_BYTES) spare.push(this)
  }

  /** The head is in the first {@link length} bytes. */
  get bytes(): Buffer {
    return this.#bytes
  }

  get length(): number {
    return this.#length
  }

  toString(): string {
    return this.#bytes.toString('latin1', 0, this.#length)
  }

  reset(): void {
    this.#length = 0
  }

  slice(from: Buffer, start: number, end: number): void {
    const to = this.#room(end - start)
    const words = end - start > COPIED_IN_WORDS ? null : wordsOf(from)
    if (words === null) from.copy(this.#bytes, to, start, end)
    else copyWords(words, start, end, this.#words, to)
  }

  /** Appends latin1 text or bytes. */
  text(text: string | Uint8Array): void {
    if (typeof text !== 'string') {
      if (text.length > 0) {
        const to = this.#room(text.length)
        this.#bytes.set(text, to)
      }
      return
    }
    const { length } = text
    if (length === 0) return
    const to = this.#room(length)
    const bytes = this.#bytes
    if (length > WRITTEN_BY_LOOP) bytes.write(text, to, 'latin1')
    else for (let i = 0; i < length; i++) bytes[to + i] = text.charCodeAt(i)
  }

  #room(bytes: number): number {
    const at = this.#length
    this.#length = at + bytes
    if (this.#length > this.#bytes.length) {
      const grown = Buffer.allocUnsafeSlow(this.#length * 2)
      this.#bytes.copy(grown, 0, 0, at)
      this.#bytes = grown
      this.#words = new DataView(grown.buffer)
    }
    return at
  }
}
