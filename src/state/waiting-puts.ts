import { emptyKey, type KeyBytes } from './key-bytes.js'
import type { StagedSection } from './staged-section.js'

const MOST = 32
const FIELDS = 5
/** So many keys are all near, and none has to wait. */
export const NEAR = 16_384

/**
 * Puts of a bulk that wait for each other. Of a million keys each is somewhere else in memory, and most of the time of a put is spent on waiting
 * for that: of many at once the processor fetches the places together.
 */
export class WaitingPuts {
  readonly #fields = new Uint32Array(FIELDS * MOST)
  readonly #key = emptyKey()
  #staged: StagedSection | null = null
  #count = 0
  /** What is looked at must be of use, or it is not looked at. */
  touched = 0

  /** False: what waits is of another section or lies in another buffer, or there is no room: it is to be flushed. */
  takes(staged: StagedSection, { bytes }: KeyBytes): boolean {
    return this.#count === 0 || (this.#count < MOST && this.#staged === staged && this.#key.bytes === bytes)
  }

  add(staged: StagedSection, { bytes, start, end, hash }: KeyBytes, offset: number, length: number): void {
    this.#staged = staged
    this.#key.bytes = bytes
    const at = FIELDS * this.#count++
    this.#fields[at] = hash
    this.#fields[at + 1] = start
    this.#fields[at + 2] = end
    this.#fields[at + 3] = offset
    this.#fields[at + 4] = length
  }

  /** Each that waits, in order. */
  flush(put: (staged: StagedSection, key: KeyBytes, offset: number, length: number) => void): void {
    const count = this.#count
    const staged = this.#staged
    if (staged === null) return
    this.#count = 0
    this.#staged = null
    const { layer, section, cleared } = staged
    const fields = this.#fields
    for (let i = 0; i < count; i++) this.touched ^= layer.touch(fields[FIELDS * i]!)
    if (!cleared) for (let i = 0; i < count; i++) this.touched ^= section.slots.touch(fields[FIELDS * i]!)
    const key = this.#key
    for (let i = 0; i < count; i++) {
      const at = FIELDS * i
      key.hash = fields[at]!
      key.start = fields[at + 1]!
      key.end = fields[at + 2]!
      key.text = null
      put(staged, key, fields[at + 3]!, fields[at + 4]!)
    }
  }
}
