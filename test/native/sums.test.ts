import * as crypto from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'

interface Entry {
  key: Buffer
  value: Buffer
}

/** As docs/protocol.md has it. */
function sums(section: Buffer, entries: Entry[]): Uint32Array {
  const lanes = new Uint32Array(8)
  for (const { key, value } of entries) {
    const lengths = Buffer.alloc(12)
    for (const [i, part] of [section, key, value].entries()) lengths.writeUInt32LE(part.length, 4 * i)
    const hash = crypto
      .createHash('sha256')
      .update(Buffer.concat([lengths, section, key, value]))
      .digest()
    for (let lane = 0; lane < 8; lane++) lanes[lane] = lanes[lane]! + hash.readUInt32LE(4 * lane)
  }
  return lanes
}

function laid(entries: Entry[]): { buffer: Buffer; ranges: Uint32Array } {
  const gap = Buffer.from('gap')
  const parts: Buffer[] = []
  const ranges: number[] = []
  let at = 0
  for (const { key, value } of entries) {
    ranges.push(at + 3, at + 3 + key.length, at + 6 + key.length, at + 6 + key.length + value.length)
    parts.push(gap, key, gap, value)
    at += 6 + key.length + value.length
  }
  return { buffer: Buffer.concat(parts), ranges: Uint32Array.from(ranges) }
}

describe('sums of entries', () => {
  it('equal those of their hashes, whatever the lengths of section, key and value', () => {
    for (const section of ['', 'routes', 'x'.repeat(255)].map(name => Buffer.from(name))) {
      const entries = Array.from({ length: 300 }, (_, i) => ({
        key: crypto.randomBytes(i % 67),
        value: crypto.randomBytes(i === 7 ? 100_000 : i),
      }))
      const { buffer, ranges } = laid(entries)
      const lanes = new Uint32Array(8)
      native.addSums(lanes, section, buffer, ranges, entries.length, 4)
      expect(lanes).toEqual(sums(section, entries))
    }
  })

  it('add to the lanes', () => {
    const entries = [{ key: Buffer.from('k'), value: Buffer.from('v') }]
    const { buffer, ranges } = laid(entries)
    const lanes = new Uint32Array(8).fill(0xffff_ffff)
    native.addSums(lanes, Buffer.from('s'), buffer, ranges, 1, 4)
    expect(lanes).toEqual(sums(Buffer.from('s'), entries).map(lane => lane - 1))
    native.addSums(lanes, Buffer.from('s'), buffer, ranges, 0, 4)
    expect(lanes).toEqual(sums(Buffer.from('s'), entries).map(lane => lane - 1))
  })

  it('of ranges that are not in the buffer are refused, and nothing is added', () => {
    const lanes = new Uint32Array(8)
    const add = (ranges: number[], count = 1, into = lanes) =>
      native.addSums(into, Buffer.alloc(1), Buffer.alloc(10), Uint32Array.from(ranges), count, 4)
    expect(() => add([0, 1, 1, 2, 0, 11, 1, 2], 2)).toThrow(/entry 1 exceed the buffer of 10 bytes/)
    expect(() => add([2, 1, 1, 2])).toThrow(RangeError)
    expect(() => add([0, 1, 1, 0xffff_ffff])).toThrow(RangeError)
    expect(() => add([0, 1, 1, 2], 2)).toThrow(/ranges for 2 entries/)
    expect(() => add([0, 1, 1, 2], -1)).toThrow(RangeError)
    expect(() => add([0, 1, 1, 2], 1, new Uint32Array(7))).toThrow(/8 lanes/)
    expect(() => add([0, 1, 1, 2], 1, new Uint8Array(8) as never)).toThrow(TypeError)
    expect(lanes).toEqual(new Uint32Array(8))
  })
})
