/** The bytes of HTTP/1 and the classes that RFC 9110 and 9112 put them into, as tables of 256 entries. */

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

/** Of a `tchar` (RFC 9110, 5.6.2) its lower-case form, of every other byte 0. */
export const TOKEN_LOWER = new Uint8Array(256)
for (const character of `!#$%&'*+-.^_\`|~${DIGITS}${UPPER}${LOWER}`) {
  TOKEN_LOWER[character.charCodeAt(0)] = character.toLowerCase().charCodeAt(0)
}

/** `bytes[start, end)` is the token `lower`, which is in small letters, in any case. */
export function isToken(bytes: Uint8Array, start: number, end: number, lower: Uint8Array): boolean {
  const { length } = lower
  const token = TOKEN_LOWER
  if (end - start !== length) return false
  for (let i = 0; i < length; i++) if (token[bytes[start + i]!] !== lower[i]) return false
  return true
}

/** 1 for what a field value may hold: tab, space, visible ASCII and obs-text (RFC 9110, 5.5). */
export const IN_VALUE = new Uint8Array(256).fill(1, 0x20)
IN_VALUE[TAB] = 1
IN_VALUE[0x7f] = 0

/** 1 for what a method may hold here: the letters of every registered method, digits, `-` and `_`. */
export const IN_METHOD = new Uint8Array(256)
fill(IN_METHOD, `${UPPER}${DIGITS}-_`, 1)

const IN_PATH = 1
const IN_QUERY = 2

/**
 * Visible ASCII without `#`, where a target ends for some servers. Legal only behind the question mark, where the path ends: a backslash, which
 * some servers take for a slash, and bytes above ASCII, which clients send as they are. Tested with {@link IN_PATH} or {@link IN_QUERY}.
 */
export const IN_TARGET = new Uint8Array(256).fill(IN_PATH | IN_QUERY, 0x21, 0x7f).fill(IN_QUERY, 0x80)
fill(IN_TARGET, '#', 0)
fill(IN_TARGET, '?\\', IN_QUERY)

export { IN_PATH, IN_QUERY }

/** The worth of a hexadecimal digit, 255 for every other byte. */
export const HEX = new Uint8Array(256).fill(255)
for (let digit = 0; digit < 16; digit++) {
  fill(HEX, digit.toString(16), digit)
  fill(HEX, digit.toString(16).toUpperCase(), digit)
}
