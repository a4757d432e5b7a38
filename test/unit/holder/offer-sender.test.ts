import { expect, it } from 'vitest'
import { native } from '../../../src/kernel/native.js'
import { offering } from '../../holder-support/offering.js'

it('a descriptor that is registered while an offer is sent follows the whole offer, and is no part of it', async () => {
  const { sender, peer, bundles, put } = offering()
  put('early')
  sender.offer(peer, { epoch: 1, wayBack: 2, source: 0 })
  const before = native.openCount()
  put('late')
  put('later')
  const ofOffer = bundles.flatMap(({ names }) => names).filter(name => name !== undefined)
  expect(ofOffer).toEqual(['early'])
  await new Promise(resolve => setImmediate(resolve))
  expect(bundles).toHaveLength(1)
  bundles[0]!.acknowledge()
  await new Promise(resolve => setImmediate(resolve))
  expect(bundles.slice(1).map(({ names }) => names)).toEqual([['late'], ['later']])
  for (const { acknowledge } of bundles) acknowledge()
  await new Promise(resolve => setImmediate(resolve))
  expect([native.openCount() - before, [...peer.lateNames]]).toEqual([2, ['late', 'later']])
})

it('a descriptor that an earlier joiner does not take ends no handoff but its own', async () => {
  const { sender, peer, bundles, put, join, dispatched } = offering()
  const offerTo = async (joiner: typeof peer) => {
    sender.offer(joiner, { epoch: 1, wayBack: 2, source: 0 })
    bundles.at(-1)!.acknowledge()
    await new Promise(resolve => setImmediate(resolve))
  }
  const fail = async (bundle: (typeof bundles)[number]) => {
    bundle.fail()
    await new Promise(resolve => setImmediate(resolve))
  }
  await offerTo(peer)
  put('late')
  await new Promise(resolve => setImmediate(resolve))
  // The first joiner is stopped, and was given up: the next one joins before the time of that bundle is over.
  const late = bundles.at(-1)!
  expect(late.names).toEqual(['late'])
  const next = join(2)
  await offerTo(next)
  await fail(late)
  expect([dispatched, next.reason]).toEqual([[], undefined])
  put('later')
  await new Promise(resolve => setImmediate(resolve))
  await fail(bundles.at(-1)!)
  expect(dispatched).toEqual([{ type: 'cancel' }])
})
