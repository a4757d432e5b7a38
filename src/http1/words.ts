/** Four bytes at a time: what heads are mostly made of is looked at, and copied, so in half the time or less. */

/** Sockets that are read in one turn are read into places of one memory that lie so far apart, and more. */
const APART_BITS = 14
const PLACES = 128

const seen = new Array<Uint8Array | null>(PLACES).fill(null)
const views = new Array<DataView | null>(PLACES).fill(null)

/**
 * A view of `bytes` for {@link plainUntil} and {@link copyWords}, where it is worth one: null for bytes that were not asked for twice, with none
 * between that lie at the same place of a memory, since to make one costs more than a short head gains. What sockets are read into is always the same.
 */
export function wordsOf(bytes: Uint8Array): DataView | null {
  const place = (bytes.byteOffset >>> APART_BITS) & (PLACES - 1)
  if (bytes === seen[place])
    return (views[place] ??= new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength))
  seen[place] = bytes
  views[place] = null
  return null
}

/**
 * The first byte in `[at, to)` that may be a control character: it is one, or it is among the last three, which are not looked at. Bytes below 0x20
 * and 0x7f are (tab too), others are not.
 */
export function plainUntil(words: DataView, at: number, to: number): number {
  const last = to - 4
  while (at <= last) {
    const word = words.getInt32(at, true)
    const other = word ^ 0x7f7f7f7f
    // Such a byte leaves its highest bit. Another one may do so above such a byte, never below the lowest.
    const marks = (((word - 0x20202020) & ~word) | ((other - 0x01010101) & ~other)) & 0x80808080
    if (marks !== 0) return at + ((31 - Math.clz32(marks & -marks)) >> 3)
    at += 4
  }
  return at
}

/** `from[start, end)` to `to[at, …)`: up to about 90 bytes faster than `Buffer.copy`, which costs as much for one as for 1,000. */
export function copyWords(from: DataView, start: number, end: number, to: DataView, at: number): void {
  const ahead = at - start
  for (; start <= end - 8; start += 8) {
    to.setInt32(start + ahead, from.getInt32(start, true), true)
    to.setInt32(start + ahead + 4, from.getInt32(start + 4, true), true)
  }
  for (; start < end; start++) to.setUint8(start + ahead, from.getUint8(start))
}
