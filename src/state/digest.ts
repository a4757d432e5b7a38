import { addSums, CHANGE_FIELDS } from '../kernel/index.js'
import { type ChangeRun, entriesOfRun } from './change-run.js'
import type { ScannedChange } from './records.js'

const LANES = 8
/** Offsets of an entry. */
const RANGES = 4

/**
 * The digest of a set of (section, key, value): the sum of their SHA-256 hashes. Each hash counts as 8 numbers of 32 bits, which are added separately
 * modulo 2^32. Detects accidental differences; does not resist an attacker.
 */
export class Digest {
  readonly #lanes = new Uint32Array(LANES)

  /** Adds a section's entries. `ranges` has four offsets in `buffer` per entry: start and end of its key and of its value. */
  addAll(section: Uint8Array, buffer: Uint8Array, ranges: Uint32Array, count: number): void {
    addSums(this.#lanes, section, buffer, ranges, count, RANGES)
  }

  /** Adds the entries of `count` changes of a run from number `from` on. */
  addRun(section: Uint8Array, run: ChangeRun, from: number, count: number): void {
    addSums(this.#lanes, section, run.buffer, entriesOfRun(run, from), count, CHANGE_FIELDS)
  }

  add(section: Uint8Array, key: Uint8Array, value: Uint8Array): void {
    addEntry(this.#lanes, section, key, value)
  }

  remove(section: Uint8Array, key: Uint8Array, value: Uint8Array): void {
    scratchSum.fill(0)
    addEntry(scratchSum, section, key, value)
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! - scratchSum[i]!
  }

  /** Adds another digest; the two sets must be disjoint. */
  merge(other: Digest): void {
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! + other.#lanes[i]!
  }

  subtract(other: Digest): void {
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! - other.#lanes[i]!
  }

  /** 64 hexadecimal digits. */
  toString(): string {
    let text = ''
    for (const lane of this.#lanes) text += lane.toString(16).padStart(8, '0')
    return text
  }
}

const scratchSum = new Uint32Array(LANES)
const range = new Uint32Array(RANGES)
let scratch = Buffer.allocUnsafe(4096)

function addEntry(lanes: Uint32Array, section: Uint8Array, key: Uint8Array, value: Uint8Array): void {
  const length = key.length + value.length
  let into = scratch
  if (length > into.length) {
    into = Buffer.allocUnsafeSlow(length)
    if (length <= 65_536) scratch = into
  }
  into.set(key, 0)
  into.set(value, key.length)
  range.set([0, key.length, key.length, length])
  addSums(lanes, section, into, range, 1, RANGES)
}

const MOST = 64

/** Collects entries of a record and adds them to the digest in one call of the addon. The buffer with the entries must not change until {@link flush}. */
export class PendingEntries {
  readonly #ranges = new Uint32Array(RANGES * MOST)
  #count = 0
  #digest: Digest | null = null
  #section!: Uint8Array
  #buffer!: Uint8Array

  add(digest: Digest, section: Uint8Array, buffer: Uint8Array, change: Readonly<ScannedChange>): void {
    if (digest !== this.#digest || buffer !== this.#buffer || this.#count === MOST) {
      this.flush()
      this.#digest = digest
      this.#section = section
      this.#buffer = buffer
    }
    const at = RANGES * this.#count++
    const ranges = this.#ranges
    ranges[at] = change.keyStart
    ranges[at + 1] = change.keyEnd
    ranges[at + 2] = change.valueStart
    ranges[at + 3] = change.valueEnd
  }

  /** The caller must flush before it reuses the buffer or reads the digest. */
  flush(): void {
    this.#digest?.addAll(this.#section, this.#buffer, this.#ranges, this.#count)
    this.#count = 0
    this.#digest = null
  }
}
