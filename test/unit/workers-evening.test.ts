import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { Evening, excessOf } from '../../src/workers/evening.js'
import type { Slot } from '../../src/workers/slot.js'

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

it('connections that cannot move are asked more and more rarely, and at once again when some could', async () => {
  vi.useFakeTimers()
  onTestFinished(() => {
    vi.useRealTimers()
  })
  const slots = [{ connections: 20 }, { connections: 0 }]
  const at: number[] = []
  const begun = Date.now()
  const evening = new Evening(
    () => slots as Slot[],
    async () => {
      at.push(Math.round((Date.now() - begun) / 1_000))
    },
    SILENT,
  )
  evening.start()
  await vi.advanceTimersByTimeAsync(16_000)
  slots[0]!.connections = 10
  await vi.advanceTimersByTimeAsync(17_000)
  evening.stop()
  expect(at).toEqual([1, 2, 4, 8, 16, 32, 33])
})
