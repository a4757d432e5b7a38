import { describe, expect, it } from 'vitest'
import { excessOf } from '../../src/workers/evening.js'

const excess = (...connections: number[]) =>
  excessOf(connections.map((count, of) => ({ of, connections: count })))

describe('connections go', () => {
  it.each([
    [[12, 0], { from: 0, to: 1, count: 6 }],
    [[27, 33], { from: 1, to: 0, count: 3 }],
    [[10, 10, 13], { from: 2, to: 0, count: 1 }],
    [[0, 0, 0, 9], { from: 3, to: 0, count: 4 }],
    [[4_000, 0], { from: 0, to: 1, count: 500 }],
  ])('of %j so: %j', (counts, expected) => {
    expect(excess(...counts)).toEqual(expected)
  })

  it.each([[[]], [[7]], [[5, 5]], [[5, 6]], [[1_000, 1_030]], [[0, 0]]])('not of %j', counts => {
    expect(excess(...counts)).toBeNull()
  })
})
