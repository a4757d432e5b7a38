// @ts-check
// Bytes that both ends of a transfer know without telling each other: at every position of every stream the same ones, in
// any process. Looking at a chunk is one comparison of memory.

/** A prime, so that no usual buffer size divides the period. */
const PERIOD = 1_048_573
/** The longest piece that is taken at once. */
export const MOST = 64 * 1024
const TABLE = makeTable()

function makeTable() {
  const table = Buffer.alloc(PERIOD + MOST)
  let state = 0x9e3779b9
  for (let at = 0; at < PERIOD; at++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    table[at] = state
  }
  table.copy(table, PERIOD, 0, MOST)
  return table
}

/**
 * Borrowed: not to be changed.
 * @param {number} seed names the stream
 * @param {number} position of the first byte
 * @param {number} length at most {@link MOST}
 */
export function patternAt(seed, position, length) {
  const from = (seed * 7_919 + position) % PERIOD
  return TABLE.subarray(from, from + length)
}

/** A number from two, the same in every process. @param {number} a @param {number} b */
export function mixed(a, b) {
  let state = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 1, 0xc2b2ae35)
  state ^= state >>> 15
  state = Math.imul(state, 0x2c1b3ce5)
  return (state ^ (state >>> 13)) >>> 0
}

/** Event `number` of the stream `id`, as it is in the body. @param {string} id @param {number} number */
export function eventText(id, number) {
  return `id: ${number}\ndata: ${id} ${'x'.repeat(mixed(Number(id), number) % 200)}\n\n`
}

/** Looks at every byte of one stream. */
export class PatternCheck {
  position = 0
  /** Where the first wrong byte was in what was looked at; -1: none. */
  wrongAt = -1
  #seed

  /** @param {number} seed */
  constructor(seed) {
    this.#seed = seed
  }

  /** @param {Buffer} chunk @returns {boolean} whether all was right so far */
  feed(chunk) {
    for (let at = 0; at < chunk.length && this.wrongAt < 0; ) {
      const length = Math.min(MOST, chunk.length - at)
      const wanted = patternAt(this.#seed, this.position, length)
      if (wanted.compare(chunk, at, at + length) !== 0) this.wrongAt = this.position
      this.position += length
      at += length
    }
    return this.wrongAt < 0
  }
}
