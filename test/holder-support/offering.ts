import { expect, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { type HolderEvent, type HolderState, initialHolder } from '../../src/handoff/holder-machine.js'
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

interface SentBundle {
  readonly names: (string | undefined)[]
  acknowledge(): void
  /** The peer has not taken it. */
  fail(): void
}

/** A holder that offers to its first peer. The test acknowledges each bundle. `dispatched`: the events for the state machine. */
export function offering() {
  const bundles: SentBundle[] = []
  const dispatched: HolderEvent[] = []
  const link = {
    channel: { fdsSent: 0 },
    post() {},
    sendBundle: (items: readonly BundleItem[]) =>
      new Promise<void>((acknowledge, reject) => {
        const names = items.map(({ name }) => name)
        bundles.push({ names, acknowledge, fail: () => reject(new Error('not taken in time')) })
      }),
  }
  const joined = new Map<number, Peer>()
  const join = (id: number) => {
    const facts = { id, link, holds: false, adopted: new Set<string>(), lateNames: new Set<string>() }
    const peer = facts as unknown as Peer
    joined.set(id, peer)
    machine = { ...machine, joiner: id }
    return peer
  }
  const peers = { all: [], get: (id: number) => joined.get(id) } as unknown as Peers
  const registry = new Registry()
  const segmentSet = new SegmentSet()
  segmentSet.make([1, 2])
  onTestFinished(() => {
    registry.close()
    segmentSet.close()
  })
  let machine: HolderState = { ...initialHolder('member', 0, 1), phase: 'offering' }
  const peer = join(1)
  const dispatch = (event: HolderEvent) => void dispatched.push(event)
  const host = { state: () => machine, extraItems: () => [], dispatch } as unknown as HolderHost
  const driver = {
    times: () => HANDOFF_TIMES,
    repeatUntilDone: () => {},
    undelivered: () => expect.unreachable('the joiner takes the offer'),
  }
  const sender = new OfferSender({ registry, segmentSet, peers, host, logger: SILENT, driver })
  const put = (name: string) => registry.put(namedEntry(name, memoryFile(name, 'a memory file')))
  return { sender, peer, bundles, put, join, dispatched }
}
