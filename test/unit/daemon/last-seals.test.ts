import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { LastSeals } from '../../../src/daemon/service/reattach.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { holdPage } from '../../processes/held-page.js'
import { has } from '../../processes/toolchains.js'
import { until } from '../../processes/until.js'

function open() {
  const segmentSet = new SegmentSet()
  const seals = new LastSeals(segmentSet, SILENT)
  const [first, second] = segmentSet.make([1, 2])
  first!.append(Buffer.from('abc'))
  onTestFinished(() => {
    seals.close()
    segmentSet.close()
  })
  return { segmentSet, seals, first: first!, second: second! }
}

describe('a daemon that has started again', () => {
  it('seals the segments of its own user at once, and those of another user in another thread', async () => {
    const own = open()
    expect(own.seals.seal(false, () => expect.unreachable('it is done'))).toBe(true)
    expect([own.first.sealed, own.second.sealed]).toEqual([true, true])
    const others = open()
    await new Promise<void>(again => expect(others.seals.seal(true, again)).toBe(false))
    expect([others.first.sealed, others.second.sealed]).toEqual([true, true])
    expect(others.seals.seal(true, () => expect.unreachable('it is done'))).toBe(true)
  })

  it('seals segments when no process uses their pages any more, while the event loop turns', async ({
    skip,
  }) => {
    if (!has('python3')) skip('there is no python3')
    const { seals, first, second } = open()
    const { end } = await holdPage(first, 'sys.stdin.read()')
    let [again, turns] = [0, 0]
    const counting = setInterval(() => turns++, 5)
    onTestFinished(() => clearInterval(counting))
    expect(seals.seal(true, () => void again++)).toBe(false)
    await until('the other one is sealed', () => second.sealed)
    await until('an attempt is over', () => turns > 100)
    // One attempt goes on.
    expect(seals.seal(true, () => expect.unreachable('one goes on'))).toBe(false)
    expect([again, first.sealed]).toEqual([0, false])
    await end()
    await until('both are sealed', () => again === 1)
    expect(first.sealed).toBe(true)
  })

  it('leaves the segments when the service ends', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const { seals, first } = open()
    const { end } = await holdPage(first, 'sys.stdin.read()')
    seals.seal(true, () => expect.unreachable('it has ended'))
    seals.close()
    await end()
    expect(seals.seal(true, () => expect.unreachable('it has ended'))).toBe(false)
  })
})
