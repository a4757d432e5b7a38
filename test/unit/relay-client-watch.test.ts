import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { type LentFd, socketPair } from '../../src/kernel/index.js'
import { ClientWatch, type Watched } from '../../src/relay/client-watch.js'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] }))
afterEach(() => void vi.useRealTimers())

it('a client that has gone is told of, unless another that has gone took it out meanwhile', () => {
  const watch = new ClientWatch()
  const pairs = [socketPair('one'), socketPair('two')]
  const heard: number[] = []
  const unread: Watched[] = pairs.map(([own], at) => ({
    descriptor: own.raw as LentFd,
    onHangup: () => {
      heard.push(at)
      for (const one of unread) watch.remove(one)
    },
  }))
  for (const one of unread) watch.add(one)
  vi.advanceTimersByTime(100)
  expect(heard).toEqual([])
  for (const [, theirs] of pairs) theirs.close()
  vi.advanceTimersByTime(100)
  expect(heard).toEqual([0])
  vi.advanceTimersByTime(100)
  expect(vi.getTimerCount()).toBe(0)
  for (const [own] of pairs) own.close()
})
