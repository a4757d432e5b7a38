/** A buffer with a DataView, which reads four bytes at a time: three times as fast as single bytes. */
export class Bytes {
  readonly buffer: Buffer
  readonly view: DataView

  constructor(buffer: Buffer) {
    this.buffer = buffer
    this.view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length)
  }
}

const NONE = new Bytes(Buffer.alloc(0))

/** A UTF-8 key as a range of a buffer, and its hash. */
export interface KeyBytes {
  bytes: Bytes
  start: number
  end: number
  hash: number
  /** The decoded key, or null if it is not decoded yet. */
  text: string | null
}

export function emptyKey(): KeyBytes {
  return { bytes: NONE, start: 0, end: 0, hash: 0, text: null }
}

/** Random, so that keys that collide in one process do not collide in others. No protection against keys that an attacker chooses. */
export const SEED = Math.floor(Math.random() * 2 ** 32)
/** Texts up to this length are encoded by a loop, longer ones by Buffer.from(). */
const ENCODED_BY_LOOP = 256

const scratch = new Bytes(Buffer.allocUnsafeSlow(ENCODED_BY_LOOP))
const ofText = emptyKey()

export function keyText(key: string | KeyBytes): string {
  if (typeof key === 'string') return key
  return (key.text ??= key.bytes.buffer.toString('utf8', key.start, key.end))
}

/** Returns the bytes of a key, valid until the next call with another text. Returns null for text with half a surrogate pair, which no key has. */
export function keyBytesOf(key: string | KeyBytes): KeyBytes | null {
  return typeof key !== 'string' ? key : key === ofText.text ? ofText : encodeText(key)
}

function encodeText(text: string): KeyBytes | null {
  ofText.text = null
  const { length } = text
  let at = 0
  if (length <= ENCODED_BY_LOOP)
    for (; at < length; at++) {
      const unit = text.charCodeAt(at)
      if (unit > 0x7f) break
      scratch.buffer[at] = unit
    }
  ofText.bytes = scratch
  ofText.end = length
  if (at < length) {
    if (/\p{Surrogate}/u.test(text)) return null
    ofText.bytes = new Bytes(Buffer.from(text))
    ofText.end = ofText.bytes.buffer.length
  }
  ofText.hash = hashOf(ofText.bytes, 0, ofText.end)
  ofText.text = text
  return ofText
}

/** MurmurHash3, 32 bits (Austin Appleby, public domain). */
export function hashOf({ buffer, view }: Bytes, start: number, end: number): number {
  let hash = SEED
  let at = start
  for (; at + 4 <= end; at += 4) {
    hash ^= scramble(view.getInt32(at, true))
    hash = (hash << 13) | (hash >>> 19)
    hash = (Math.imul(hash, 5) + 0xe6546b64) | 0
  }
  let tail = 0
  for (let shift = 0; at < end; shift += 8) tail |= buffer[at++]! << shift
  hash ^= scramble(tail) ^ (end - start)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

function scramble(word: number): number {
  const product = Math.imul(word, 0xcc9e2d51)
  return Math.imul((product << 15) | (product >>> 17), 0x1b873593)
}

export function areAscii({ buffer, view }: Bytes, start: number, end: number): boolean {
  let all = 0
  let at = start
  for (; at + 4 <= end; at += 4) all |= view.getInt32(at, true)
  for (; at < end; at++) all |= buffer[at]!
  return (all & 0x8080_8080) === 0
}

export function areEqual(a: Bytes, from: number, b: Bytes, start: number, end: number): boolean {
  let at = start
  let other = from
  for (; at + 4 <= end; at += 4, other += 4) if (a.view.getInt32(other) !== b.view.getInt32(at)) return false
  for (; at < end; at++, other++) if (a.buffer[other] !== b.buffer[at]) return false
  return true
}

const COPIED_BY_LOOP = 128

export function copyKey(from: Bytes, start: number, end: number, into: Bytes, to: number): void {
  if (end - start > COPIED_BY_LOOP) {
    from.buffer.copy(into.buffer, to, start, end)
    return
  }
  let at = start
  let place = to
  for (; at + 4 <= end; at += 4, place += 4) into.view.setInt32(place, from.view.getInt32(at))
  for (; at < end; at++, place++) into.buffer[place] = from.buffer[at]!
}
