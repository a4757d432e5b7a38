/** Bytes of HTTP/1 with their names, and the character classes of RFC 9110 and 9112 as tables with an entry for each byte. */

export const TAB = 0x09
export const LF = 0x0a
export const CR = 0x0d
export const SPACE = 0x20
export const ZERO = 0x30
export const COLON = 0x3a
export const SEMICOLON = 0x3b
export const EQUALS = 0x3d
export const QUESTION = 0x3f
export const QUOTE = 0x22
export const BACKSLASH = 0x5c

function fill(table: Uint8Array, characters: string, value: number): void {
  for (const character of characters) table[character.charCodeAt(0)] = value
}

const UPPER = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
const LOWER = UPPER.toLowerCase()
const DIGITS = '0123456789'

/** Maps each `tchar` (RFC 9110, 5.6.2) to its lower-case form, and every other byte to 0. */
export const TOKEN_LOWER = new Uint8Array(256)
for (const character of `!#$%&'*+-.^_\`|~${DIGITS}${UPPER}${LOWER}`) {
  TOKEN_LOWER[character.charCodeAt(0)] = character.toLowerCase().charCodeAt(0)
}

/**
 * Returns the position of the first byte of `bytes[at, to)` whose entry in `table` has none of the bits `mask`, or `to`. Looks at four bytes a turn, because
 * V8 checks the arrays again in each turn of a loop, which takes longer than the look at a byte.
 */
export function runEnd(table: Uint8Array, mask: number, bytes: Uint8Array, at: number, to: number): number {
  const last = to - 4
  for (; at <= last; at += 4) {
    if ((table[bytes[at]!]! & mask) === 0) return at
    if ((table[bytes[at + 1]!]! & mask) === 0) return at + 1
    if ((table[bytes[at + 2]!]! & mask) === 0) return at + 2
    if ((table[bytes[at + 3]!]! & mask) === 0) return at + 3
  }
  while (at < to && (table[bytes[at]!]! & mask) !== 0) at++
  return at
}

/** A mask for {@link runEnd}: any bit. */
export const ANY_BIT = 0xff

/** Reports whether `bytes[start, end)` is the token `lower`, ignoring case. `lower` must be lower-case. */
export function isToken(bytes: Uint8Array, start: number, end: number, lower: Uint8Array): boolean {
  const { length } = lower
  const token = TOKEN_LOWER
  if (end - start !== length) return false
  let i = 0
  for (const last = length - 4; i <= last; i += 4)
    if (
      token[bytes[start + i]!] !== lower[i] ||
      token[bytes[start + i + 1]!] !== lower[i + 1] ||
      token[bytes[start + i + 2]!] !== lower[i + 2] ||
      token[bytes[start + i + 3]!] !== lower[i + 3]
    )
      return false
  for (; i < length; i++) if (token[bytes[start + i]!] !== lower[i]) return false
  return true
}

/** 1 for the bytes of a field value: tab, space, visible ASCII and obs-text (RFC 9110, 5.5). */
export const IN_VALUE = new Uint8Array(256).fill(1, 0x20)
IN_VALUE[TAB] = 1
IN_VALUE[0x7f] = 0

/** 1 for the bytes accepted in a method: capitals, digits, `-` and `_`. Every registered method has only these. */
export const IN_METHOD = new Uint8Array(256)
fill(IN_METHOD, `${UPPER}${DIGITS}-_`, 1)

export const IN_PATH = 1
export const IN_QUERY = 2

/** Where a byte may appear in a request target, a set of {@link IN_PATH} and {@link IN_QUERY}: visible ASCII except `#`; backslash and non-ASCII only in the query. */
export const IN_TARGET = new Uint8Array(256).fill(IN_PATH | IN_QUERY, 0x21, 0x7f).fill(IN_QUERY, 0x80)
fill(IN_TARGET, '#', 0)
fill(IN_TARGET, '?\\', IN_QUERY)

/** The value of a hexadecimal digit; 255 for every other byte. */
export const HEX = new Uint8Array(256).fill(255)
for (let digit = 0; digit < 16; digit++) {
  fill(HEX, digit.toString(16), digit)
  fill(HEX, digit.toString(16).toUpperCase(), digit)
}

// The following functions read and copy four bytes at a time, which takes at most half as long as byte by byte.

/** Buffers that are read in the same turn start at least 2^14 bytes apart in one ArrayBuffer, so each of them has its own cache slot. */
const SLOT_SHIFT = 14
const SLOTS = 128

const lastBytes = new Array<Uint8Array | null>(SLOTS).fill(null)
const views = new Array<DataView | null>(SLOTS).fill(null)

/** The bytes of the last call of {@link wordsOf}: most calls are about these, and the place of a buffer in its memory takes long to read. */
let current: Uint8Array | null = null
let currentView: DataView | null = null

/** Returns a view of `bytes` for {@link plainUntil} and {@link copyWords}. Returns null at the first use of a buffer, because a view pays off only if the buffer is used again. */
export function wordsOf(bytes: Uint8Array): DataView | null {
  if (bytes === current && currentView !== null) return currentView
  currentView = viewOf(bytes)
  current = bytes
  return currentView
}

function viewOf(bytes: Uint8Array): DataView | null {
  const slot = (bytes.byteOffset >>> SLOT_SHIFT) & (SLOTS - 1)
  if (bytes === lastBytes[slot])
    return (views[slot] ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength))
  lastBytes[slot] = bytes
  views[slot] = null
  return null
}

/**
 * Returns the position of the first control character (below 0x20, or 0x7f) in `[at, to)`. Does not check the last three bytes or fewer: returns the
 * position of the first unchecked byte, and the caller checks the rest.
 */
export function plainUntil(words: DataView, at: number, to: number): number {
  const last = to - 4
  while (at <= last) {
    const word = words.getInt32(at, true)
    // Zero for most words. Bytes above 0x7f, and bytes next to a control character, set a bit too.
    if ((((word - 0x20202020) | (word + 0x01010101)) & 0x80808080) !== 0) {
      const marks = controls(word)
      if (marks !== 0) return at + lowest(marks)
    }
    at += 4
  }
  return at
}

/** A control character sets the highest bit of its byte. The subtraction may also mark higher bytes by a borrow, so only the lowest mark counts. */
function controls(word: number): number {
  const other = word ^ 0x7f7f7f7f
  return (((word - 0x20202020) & ~word) | ((other - 0x01010101) & ~other)) & 0x80808080
}

/** Returns the index of the byte of the lowest mark. */
function lowest(marks: number): number {
  return (31 - Math.clz32(marks & -marks)) >> 3
}

/** Copies `from[start, end)` to `to`, from `at` on. Up to some 300 bytes this is faster than `Buffer.copy`, which has a high fixed cost. */
export function copyWords(from: DataView, start: number, end: number, to: DataView, at: number): void {
  const ahead = at - start
  const last = end - 8
  if (start > last) {
    if (end - start >= 4) {
      to.setInt32(at, from.getInt32(start, true), true)
      to.setInt32(end - 4 + ahead, from.getInt32(end - 4, true), true)
      return
    }
    for (; start < end; start++) to.setUint8(start + ahead, from.getUint8(start))
    return
  }
  for (; start < last; start += 8) {
    to.setInt32(start + ahead, from.getInt32(start, true), true)
    to.setInt32(start + ahead + 4, from.getInt32(start + 4, true), true)
  }
  // The last eight bytes, also those among them that are copied already.
  to.setInt32(last + ahead, from.getInt32(last, true), true)
  to.setInt32(last + ahead + 4, from.getInt32(last + 4, true), true)
}
