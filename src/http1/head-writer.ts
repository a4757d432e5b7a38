import { copyWords, wordsOf } from './bytes.js'

/** Text of up to as many letters is written fastest one by one: to call for it costs 20 to 50 ns. */
const SHORT = 16
/** Up to as many bytes are copied fastest in words. */
const FEW = 80
const FIRST_BYTES = 1024
/** The most spare writers, and the most memory of each. */
const MOST_SPARE = 1024
const MOST_SPARE_BYTES = 8192

const spare: HeadWriter[] = []

/** Puts a head together from read bytes and text. The output is good until {@link reset} is called again. */
export class HeadWriter {
  #bytes = Buffer.allocUnsafeSlow(FIRST_BYTES)
  #words = new DataView(this.#bytes.buffer)
  #length = 0

  /** Takes a writer that has no other user. */
  static acquire(): HeadWriter {
    return spare.pop() ?? new HeadWriter()
  }

  /** The output is not needed any more. To be called once, or not at all. */
  release(): void {
    if (spare.length < MOST_SPARE && this.#bytes.length <= MOST_SPARE_BYTES) spare.push(this)
  }

  /** Where the head is, in front of bytes that mean nothing. */
  get bytes(): Buffer {
    return this.#bytes
  }

  get length(): number {
    return this.#length
  }

  /** The head, as text (latin1). */
  toString(): string {
    return this.#bytes.toString('latin1', 0, this.#length)
  }

  /** Begins a head; what was written of another one is gone. */
  reset(): void {
    this.#length = 0
  }

  /** Bytes that were read and are passed on as they are. */
  slice(from: Buffer, start: number, end: number): void {
    const to = this.#room(end - start)
    const words = end - start > FEW ? null : wordsOf(from)
    if (words === null) from.copy(this.#bytes, to, start, end)
    else copyWords(words, start, end, this.#words, to)
  }

  /** Text (latin1), or whole lines that were made bytes before. */
  text(text: string | Uint8Array): void {
    const { length } = text
    if (length === 0) return
    const to = this.#room(length)
    const bytes = this.#bytes
    if (typeof text !== 'string') bytes.set(text, to)
    else if (length > SHORT) bytes.write(text, to, 'latin1')
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
