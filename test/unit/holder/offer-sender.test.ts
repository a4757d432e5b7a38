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
