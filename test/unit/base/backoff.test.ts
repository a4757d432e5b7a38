import { describe, expect, it } from 'vitest'
import { Backoff, backoffMs, IN_BACKGROUND, LONGEST_RESTART_MS } from '../../../src/base/backoff.js'

describe('a backoff', () => {
  it('begins with the first wait, doubles with each failure and stays at the longest', () => {
    const bounds = { firstMs: 10, longestMs: 70 }
    expect([1, 2, 3, 4, 5].map(failures => backoffMs(bounds, failures))).toEqual([10, 20, 40, 70, 70])
  })

  it('never exceeds the longest wait, also when the first wait is longer', () => {
    expect(backoffMs({ firstMs: 100_000, longestMs: LONGEST_RESTART_MS }, 1)).toBe(30_000)
  })

  it('gives a number after any number of failures, also with a first wait of 0', () => {
    for (const failures of [1, 1_025, 2 ** 40]) {
      expect(backoffMs({ firstMs: 0, longestMs: 30_000 }, failures)).toBe(0)
      expect(backoffMs(IN_BACKGROUND, failures)).toBe(failures === 1 ? 1_000 : 60_000)
    }
  })

  it('begins again after a success', () => {
    const backoff = new Backoff({ firstMs: 2, longestMs: 50 })
    expect([backoff.next(), backoff.next(), backoff.next()]).toEqual([2, 4, 8])
    backoff.reset()
    expect([backoff.next(), backoff.next()]).toEqual([2, 4])
  })
})
