import { createServer } from 'node:http'
import { describe, expect, it, onTestFinished } from 'vitest'
import { activeIntervals } from '../../../src/node/active-resources.js'

function interval(callback: () => void, ms: number): NodeJS.Timeout {
  const timer = setInterval(callback, ms)
  onTestFinished(() => clearInterval(timer))
  return timer
}

describe('active intervals of a program', () => {
  it.each([1_100, 5_000, 7_500, 90_000, 300_000, 3_600_000, 86_400_000])('show at %d ms', ms => {
    const timer = interval(function pollQueue() {}, ms)
    expect(activeIntervals(1_001)).toEqual([{ everyMs: ms, what: 'pollQueue()' }])
    clearInterval(timer)
    expect(activeIntervals(1_001)).toEqual([])
  })

  it('include all of a duration, in the order of their start, also without a reference', () => {
    interval(function first() {}, 5_000)
    setTimeout(() => {}, 5_000).unref()
    interval(function second() {}, 5_000).unref()
    expect(activeIntervals(1_001).map(({ what }) => what)).toEqual(['first()', 'second()'])
  })

  it('have the beginning of their source as a name if the function has none', () => {
    interval(() => void Promise.resolve('a text that makes this function longer than is shown'), 2_000)
    expect(activeIntervals(1_001)).toEqual([
      { everyMs: 2_000, what: expect.stringMatching(/^\(\) => .*a text.*…$/) },
    ])
  })

  it('exclude shorter ones, timeouts, and those of a server of Node', async () => {
    interval(() => {}, 1_000)
    setTimeout(() => {}, 30_000).unref()
    const server = createServer().listen(0)
    onTestFinished(() => void server.close())
    expect(activeIntervals(1_001)).toEqual([])
  })
})
