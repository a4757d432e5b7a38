import { describe, expect, it } from 'vitest'
import { LIMITS } from '../../src/daemon/policy/policy.js'
import { DescriptorTable } from '../../src/daemon/service/descriptor-table.js'
import { type Entry, entryItem, namedEntry } from '../../src/holder/entry.js'
import type { Peer } from '../../src/holder/peer.js'
import { memoryFile } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const SILENT = { debug() {}, info() {}, warn() {}, error() {} }
const KINDS = [
  'arrive',
  'takeUnclaimed',
  'awaitTaking',
  'hold',
  'holdProvisionally',
  'letGo',
  'letGoForGood',
  'releaseLate',
  'setBrought',
  'adopt',
  'complete',
  'settle',
  'inherit',
  'keepProvisional',
  'forget',
] as const
type Kind = (typeof KINDS)[number]

const STEP = fc.record({
  kind: fc.constantFrom(...KINDS),
  peer: fc.nat(2),
  names: fc.uniqueArray(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 2 }),
})

const peer = (pid: number) => ({ pid, adopted: new Set<string>(), refused: new Set<string>() }) as Peer
const entry = (name: string): Entry => namedEntry(name, memoryFile(name, name))

/** Carries out one step. The descriptors that it makes are the table's, or are closed here. */
function carryOut(table: DescriptorTable, by: Peer, kind: Kind, names: readonly string[]): void {
  const [name = ''] = names
  switch (kind) {
    case 'arrive':
      table.arrive(
        by,
        names.map(name => entryItem(entry(name))),
      )
      return
    case 'takeUnclaimed':
      for (const { fd } of table.takeUnclaimed(by)) fd.close()
      return
    case 'awaitTaking':
      table.markRegistered(by)
      return
    case 'hold':
    case 'holdProvisionally':
      table[kind](by, entry(name))
      return
    case 'letGo':
    case 'letGoForGood':
      table.release(by, name, kind === 'letGoForGood')
      return
    case 'setBrought':
      table.setBrought(by, names.map(entry))
      return
    case 'complete':
      table.complete(by, names.map(entry), { service: 'shop', limits: { ...LIMITS, descriptors: 2 } })
      return
    case 'keepProvisional':
      table.keepProvisional([by])
      return
    default:
      table[kind](by)
  }
}

describe('the descriptors that a daemon has for one service', () => {
  it("have one owner each, in any order of what members do: none is lost, none is closed that is the service's", () => {
    fc.assert(
      fc.property(fc.array(STEP, { maxLength: 60, size: 'max' }), steps => {
        const before = native.openCount()
        const table = new DescriptorTable(SILENT)
        const peers = [peer(1), peer(2), peer(3)]
        for (const { kind, peer: who, names } of steps) {
          carryOut(table, peers[who]!, kind, names)
          const { held } = table
          expect(held.names).toEqual([...new Set(held.names)])
          for (const { fd } of held.entries) expect(fd.closed).toBe(false)
          for (const one of peers)
            for (const { fd, name } of table.entriesFor(one)) expect([name, fd.closed]).toEqual([name, false])
          // When no other member can come back, the service has what the serving one wants, and no more.
          if (kind === 'settle')
            for (const name of held.names) expect(peers[who]!.adopted.has(name)).toBe(true)
        }
        table.close()
        expect(native.openCount()).toBe(before)
      }),
      { numRuns: perLane(75, 300) },
    )
  })
})
