import { wordsOf } from './bytes.js'

const MAX_KNOWN = 512
const SLOT_BITS = 9
/** Longer bytes seldom come again. */
const MAX_KNOWN_BYTES = 64

interface Known<T> {
  readonly length: number
  /** The bytes, four in each number; the last four overlap those before. */
  readonly words: Int32Array
  readonly value: T
}

/**
 * Caches what was made of recent bytes, such as hosts, so that equal bytes share one value. To find one takes a seventh of the time of decoding a text.
 * Keeps a value when its bytes come again, because many targets come once.
 */
export class KnownValues<T> {
  readonly #make: (text: string) => T | undefined
  readonly #known = new Array<Known<T> | undefined>(MAX_KNOWN).fill(undefined)
  /** The hash of the bytes that came last, of each slot. */
  readonly #hashes = new Int32Array(MAX_KNOWN)

  /** `make`: returns the value of latin1 text; undefined is not kept. */
  constructor(make: (text: string) => T | undefined) {
    this.#make = make
  }

  /** Returns the value of `bytes[start, end)`. */
  get(bytes: Buffer, start: number, end: number): T | undefined {
    const length = end - start
    if (length > MAX_KNOWN_BYTES || length < 1) return this.#make(bytes.toString('latin1', start, end))
    const view = wordsOf(bytes)
    const last = end - 4
    let hash = length
    for (let at = start; at < last; at += 4) hash = Math.imul(hash, 31) + wordAt(bytes, view, at)
    hash = (Math.imul(hash, 31) + (length < 4 ? shortWord(bytes, start, end) : wordAt(bytes, view, last))) | 0
    const slot = Math.imul(hash, 0x9e3779b1) >>> (32 - SLOT_BITS)
    const known = this.#known[slot]
    if (known !== undefined && known.length === length && isSame(known.words, bytes, view, start, end))
      return known.value
    const value = this.#make(bytes.toString('latin1', start, end))
    if (this.#hashes[slot] !== hash) this.#hashes[slot] = hash
    else if (value !== undefined) this.#known[slot] = { length, words: wordsIn(bytes, start, end), value }
    return value
  }
}

function wordAt(bytes: Uint8Array, view: DataView | null, at: number): number {
  return view === null
    ? bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
    : view.getInt32(at, true)
}

/** The word of up to three bytes. */
function shortWord(bytes: Uint8Array, start: number, end: number): number {
  let word = 0
  for (let at = start; at < end; at++) word = (word << 8) | bytes[at]!
  return word
}

function wordsIn(bytes: Uint8Array, start: number, end: number): Int32Array {
  const words: number[] = []
  for (let at = start; at < end - 4; at += 4) words.push(wordAt(bytes, null, at))
  words.push(end - start < 4 ? shortWord(bytes, start, end) : wordAt(bytes, null, end - 4))
  return Int32Array.from(words)
}

function isSame(
  words: Int32Array,
  bytes: Uint8Array,
  view: DataView | null,
  start: number,
  end: number,
): boolean {
  const last = words.length - 1
  if (words[last] !== (end - start < 4 ? shortWord(bytes, start, end) : wordAt(bytes, view, end - 4)))
    return false
  for (let i = 0; i < last; i++) if (words[i] !== wordAt(bytes, view, start + 4 * i)) return false
  return true
}
