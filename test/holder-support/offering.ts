import { expect, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { initialHolder } from '../../src/handoff/holder-machine.js'
import { namedEntry } from '../../src/holder/entry.js'
import type { HolderHost } from '../../src/holder/message-handler.js'
import { OfferSender } from '../../src/holder/offer-sender.js'
import type { Peer } from '../../src/holder/peer.js'
import type { Peers } from '../../src/holder/peers.js'
import { Registry } from '../../src/holder/registry.js'
import { SegmentSet } from '../../src/holder/segment-set.js'
import { HANDOFF_TIMES } from '../../src/holder/times.js'
import { memoryFile } from '../../src/kernel/index.js'
import type { BundleItem } from '../../src/wire/bundle.js'

/** A holder that offers to its first peer. The test acknowledges each bundle. */
export function offering() {
  const bundles: { readonly names: (string | undefined)[]; acknowledge(): void }[] = []
  const link = {
    channel: { fdsSent: 0 },
    post() {},
    sendBundle: (items: readonly BundleItem[]) =>
      new Promise<void>(acknowledge => {
        bundles.push({ names: items.map(({ name }) => name), acknowledge })
      }),
  }
  const peer = {
    id: 1,
    link,
    holds: false,
    adopted: new Set<string>(),
    lateNames: new Set<string>(),
  } as unknown as Peer
  const peers = { all: [], get: (id: number) => (id === 1 ? peer : undefined) } as unknown as Peers
  const registry = new Registry()
  const segmentSet = new SegmentSet()
  segmentSet.make([1, 2])
  onTestFinished(() => {
    registry.close()
    segmentSet.close()
  })
  const machine = { ...initialHolder('member', 0, 1), phase: 'offering', joiner: 1 } as const
  const host = { state: () => machine, extraItems: () => [] } as unknown as HolderHost
  const driver = {
    times: () => HANDOFF_TIMES,
    repeatUntilDone: () => {},
    undelivered: () => expect.unreachable('the joiner takes the offer'),
  }
  const sender = new OfferSender({ registry, segmentSet, peers, host, logger: SILENT, driver })
  const put = (name: string) => registry.put(namedEntry(name, memoryFile(name, 'a memory file')))
  return { sender, peer, bundles, put }
}
