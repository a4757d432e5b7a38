import { afterEach, beforeEach, expect, it, onTestFinished, vi } from 'vitest'
import { type HolderState, initialHolder } from '../../../src/handoff/holder-machine.js'
import { Renewal } from '../../../src/holder/renewal.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'

beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] }))
afterEach(() => void vi.useRealTimers())

/** How often the owner is asked to go on in a new segment. */
function renewing(
  renewBytes: number,
  owner: { amidBulk?: () => boolean } = {},
): { asked: () => number; machine: { state: HolderState }; segmentSet: SegmentSet } {
  const segmentSet = new SegmentSet()
  segmentSet.make([1])
  const machine = { state: initialHolder('member', 1, 1) }
  let asked = 0
  const host = { state: () => machine.state, dispatch: () => asked++, ...owner }
  const renewal = new Renewal(host, segmentSet, () => renewBytes)
  onTestFinished(() => {
    renewal.close()
    segmentSet.close()
  })
  return { asked: () => asked, machine, segmentSet }
}

it('an owner that could not begin is asked again, seldomer and seldomer, and from the beginning after it could', () => {
  const { asked, machine } = renewing(Number.MAX_SAFE_INTEGER)
  const unfit = { ...machine.state, unfit: [1] }
  const times = (seconds: number) => {
    const before = asked()
    vi.advanceTimersByTime(seconds * 1_000)
    return asked() - before
  }
  expect(times(5)).toBe(0)
  machine.state = unfit
  // At 1, 2, 4, 8, 16, 32 and 64 seconds; then once a minute.
  expect([times(1), times(1), times(6), times(56)]).toEqual([1, 1, 2, 3])
  expect([times(59), times(1), times(60), times(120)]).toEqual([0, 1, 1, 2])
  machine.state = { ...unfit, unfit: [] }
  expect(times(1)).toBe(0)
  machine.state = unfit
  expect([times(1), times(1)]).toEqual([1, 1])
})

it('an owner that is given its right back and could not begin is asked again', () => {
  const { asked, machine } = renewing(1)
  machine.state = { ...machine.state, phase: 'returning' }
  vi.advanceTimersByTime(3_000)
  expect(asked()).toBe(0)
  machine.state = { ...machine.state, unfit: [1] }
  vi.advanceTimersByTime(2_000)
  expect(asked()).toBe(2)
})

it('an owner whose segment has grown is asked while no handoff is under way', () => {
  const { asked, machine } = renewing(1)
  machine.state = { ...machine.state, phase: 'probation' }
  vi.advanceTimersByTime(3_000)
  expect(asked()).toBe(0)
  machine.state = { ...machine.state, phase: 'idle' }
  vi.advanceTimersByTime(1_000)
  expect(asked()).toBe(1)
})

it('an owner amid a bulk is let be until that is whole', () => {
  let amidBulk = true
  const { asked } = renewing(1, { amidBulk: () => amidBulk })
  vi.advanceTimersByTime(5_000)
  expect(asked()).toBe(0)
  amidBulk = false
  vi.advanceTimersByTime(1_000)
  expect(asked()).toBe(1)
})

it('where nobody here knows, a segment that grows fast is let grow, up to eight times its size', () => {
  const { asked, segmentSet } = renewing(1024 * 1024)
  const grow = (bytes: number) => {
    segmentSet.get(1)!.append(Buffer.alloc(bytes))
    vi.advanceTimersByTime(1_000)
    return asked()
  }
  for (let seconds = 0; seconds < 7; seconds++) expect(grow(1024 * 1024)).toBe(0)
  expect(grow(1024 * 1024)).toBe(1)
  expect(grow(1024)).toBe(2)
  const slow = renewing(1024 * 1024)
  slow.segmentSet.get(1)!.append(Buffer.alloc(2 * 1024 * 1024))
  vi.advanceTimersByTime(1_000)
  expect(slow.asked()).toBe(0)
  vi.advanceTimersByTime(1_000)
  expect(slow.asked()).toBe(1)
})
