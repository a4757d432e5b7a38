import { expect, it, onTestFinished } from 'vitest'
import { claimRecovered } from '../../../src/member/joining/start.js'
import { Segment } from '../../fixtures/state.js'
import { holdPage } from '../../processes/held-page.js'
import { has } from '../../processes/toolchains.js'

function segmentOf(epoch: number): Segment {
  const segment = Segment.create(epoch)
  onTestFinished(() => segment.close())
  segment.append(Buffer.from('abc'))
  return segment
}

it('tells of a segment that the kernel does not seal, and seals those beside it', async ({ skip }) => {
  if (!has('python3')) skip('there is no python3')
  const segments = [1, 2, 3].map(segmentOf)
  const { end } = await holdPage(segments[1]!, 'sys.stdin.read()')
  const told: string[] = []
  claimRecovered(segments, ({ code, message }) => told.push(`${code}: ${message}`))
  await end()
  expect(segments.map(({ sealed }) => sealed)).toEqual([true, false, true])
  expect(told).toEqual([expect.stringMatching(/^ERR_FDB_STATE_SEAL: segment of epoch 2 .*EBUSY/)])
})

it('tells of nothing where a descriptor is read-only: who can write has ended', () => {
  const segment = segmentOf(1)
  const seen = segment.readOnly()
  onTestFinished(() => seen.close())
  const told: unknown[] = []
  claimRecovered([seen, segmentOf(2)], error => told.push(error))
  expect(told).toEqual([])
  expect(segment.sealed).toBe(false)
})

it('lets one process claim the segments, also if an earlier hung process left some that were claimed', () => {
  const [merged, own, wayBack] = [1, 2, 3].map(segmentOf) as [Segment, Segment, Segment]
  merged.claim()
  const claims = () => claimRecovered([merged, own, wayBack], ({ message }) => expect.fail(message))
  expect([claims(), claims()]).toEqual([true, false])
  expect([own.claimed, wayBack.claimed]).toEqual([true, true])
})
