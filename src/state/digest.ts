import * as crypto from 'node:crypto'

const LANES = 8
const LENGTHS = 12

/**
 * A digest over a set of (section, key, value) that does not depend on their order and is kept up to date by
 * adding and removing single entries: the SHA-256 of each entry's length-prefixed encoding, added lane by lane
 * (8 lanes of 32 bits, each modulo 2^32). The empty set is all zeros. It finds differences; it is no defence
 * against somebody who may choose the entries.
 */
export class Digest {
  readonly #lanes = new Uint32Array(LANES)

  add(section: Uint8Array, key: Uint8Array, value: Uint8Array): void {
    const hash = entryHash(section, key, value)
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! + hash.readUInt32LE(i * 4)
  }

  remove(section: Uint8Array, key: Uint8Array, value: Uint8Array): void {
    const hash = entryHash(section, key, value)
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! - hash.readUInt32LE(i * 4)
  }

  /** Adds all entries of another, disjoint set. */
  merge(other: Digest): void {
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! + other.#lanes[i]!
  }

  /** Takes all entries of another set out. */
  subtract(other: Digest): void {
    for (let i = 0; i < LANES; i++) this.#lanes[i] = this.#lanes[i]! - other.#lanes[i]!
  }

  clear(): void {
    this.#lanes.fill(0)
  }

  equals(other: Digest): boolean {
    return this.#lanes.every((lane, i) => lane === other.#lanes[i])
  }

  /** 64 hexadecimal digits. */
  toString(): string {
    let text = ''
    for (const lane of this.#lanes) text += lane.toString(16).padStart(8, '0')
    return text
  }
}

let scratch = Buffer.allocUnsafe(4096)

function entryHash(section: Uint8Array, key: Uint8Array, value: Uint8Array): Buffer {
  const length = LENGTHS + section.length + key.length + value.length
  let into = scratch
  if (length > into.length) {
    into = Buffer.allocUnsafeSlow(length)
    if (length <= 65_536) scratch = into
  }
  into.writeUInt32LE(section.length, 0)
  into.writeUInt32LE(key.length, 4)
  into.writeUInt32LE(value.length, 8)
  into.set(section, LENGTHS)
  into.set(key, LENGTHS + section.length)
  into.set(value, LENGTHS + section.length + key.length)
  return crypto.hash('sha256', into.subarray(0, length), 'buffer')
}
