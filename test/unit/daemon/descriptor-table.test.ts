import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { LIMITS } from '../../../src/daemon/policy/policy.js'
import { DescriptorTable } from '../../../src/daemon/service/descriptor-table.js'
import { handBack } from '../../../src/daemon/service/hand-back.js'
import { type ReattachTarget, reattach, takeRegistered } from '../../../src/daemon/service/reattach.js'
import { soleCopyOf } from '../../../src/daemon/service/sole-copy.js'
import type { FdbError } from '../../../src/errors.js'
import { type HolderState, initialHolder, restartedHolder } from '../../../src/handoff/holder-machine.js'
import { NOBODY } from '../../../src/handoff/messages.js'
import {
  type Entry,
  entryItem,
  type ListenerEntry,
  listenerEntry,
  namedEntry,
  parseEntry,
} from '../../../src/holder/entry.js'
import type { Peer } from '../../../src/holder/peer.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { inspectOne, memoryFile, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import type { BundleItem } from '../../../src/wire/bundle.js'
import { Segment } from '../../fixtures/state.js'

function named(name: string): Entry {
  return namedEntry(name, OwnedFd.own(native.memfd(name), name))
}

function listening(name: string, spec = 'tcp://127.0.0.1:0'): Entry {
  const fd = OwnedFd.own(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }), name)
  return parseEntry({ role: 'listener', name, spec }, fd)
}

function member(pid: number): Peer {
  return {
    id: pid,
    pid,
    pidfd: null,
    adopted: new Set(),
    refused: new Set(),
    link: { channel: {} },
  } as unknown as Peer
}

/** A daemon's holdings of one service, and how many descriptors that are. */
class Held implements ReattachTarget {
  readonly events = { adopt: (fd: { close(): void }) => fd.close() }
  readonly said: string[] = []
  readonly logger = {
    ...SILENT,
    error: (about: object) => {
      const { err, count } = about as { err: FdbError; count: number }
      this.said.push(`${err.code} ${count}`)
    },
  }
  readonly limits = { service: 'shop', limits: LIMITS }
  readonly descriptorTable = new DescriptorTable(this.logger)
  readonly segmentSet = new SegmentSet()
  machine: HolderState = initialHolder('member', 1, 1)
  readonly #before = native.openCount()
  constructor() {
    onTestFinished(() => this.close())
  }
  get count(): number {
    return native.openCount() - this.#before
  }
  get names(): string[] {
    return this.descriptorTable.held.names
  }
  close(): void {
    this.descriptorTable.close()
    this.segmentSet.close()
  }
}

/** Makes `count` names; each is the same descriptor. */
function many(prefix: string, count: number): Entry[] {
  using fd = memoryFile(prefix, 'a memory file')
  return Array.from({ length: count }, (_, i) => namedEntry(`${prefix}${i}`, fd.share()))
}

describe('the entries of a member of a daemon', () => {
  it('include no snapshot of a member that has served before: the one of the serving member stays alone', () => {
    const held = new Held()
    const [late, owner] = [member(1), member(2)]
    held.machine = initialHolder('member', 2, 9)
    held.segmentSet.make([9])
    const merged = (peer: Peer, epoch: number) => {
      const { fd } = Segment.create(epoch, { kind: 'snapshot' })
      held.descriptorTable.arrive(peer, [{ role: 'segment', epoch, writable: false, fd }])
      expect(takeRegistered(peer, true, held)).toBeNull()
    }
    merged(owner, 5)
    merged(late, 3)
    merged(owner, 4)
    expect(held.segmentSet.all.map(({ epoch, kind }) => [epoch, kind])).toEqual([
      [5, 'snapshot'],
      [9, 'epoch'],
    ])
    merged(owner, 7)
    expect(held.segmentSet.all.map(({ epoch }) => epoch)).toEqual([7, 9])
  })

  it('do not end the right of the member that serves: a member that was replaced may return with its segment', () => {
    const held = new Held()
    held.machine = initialHolder('member', 2, 9)
    const [serving] = held.segmentSet.make([9])
    const unknown = Segment.create(9)
    onTestFinished(() => unknown.close())
    const returning = member(1)
    const bring = ({ fd }: Segment) =>
      held.descriptorTable.arrive(returning, [{ role: 'segment', epoch: 9, writable: true, fd: fd.dup() }])
    bring(serving!)
    bring(unknown)
    reattach(returning, false, held)
    expect([serving!.sealed, unknown.sealed]).toEqual([false, true])
  })

  it('stay after all members of a restarted daemon have left: those of the one that served last', () => {
    const held = new Held()
    held.machine = restartedHolder()
    const peers = [1, 2, 3].map(member)
    const roles = ['standby', 'serving', 'frozen'] as const
    for (const [i, peer] of peers.entries()) {
      held.descriptorTable.arrive(peer, [entryItem(named(`of ${i + 1}`))])
      reattach(peer, false, held)
    }
    expect(held.descriptorTable.adoptLeft()).toBe(false)
    for (const [i, peer] of peers.entries()) {
      held.descriptorTable.keepBrought(peer, { id: peer.id, role: roles[i]!, epoch: 7 - i, top: 9 })
      held.descriptorTable.forget(peer)
    }
    expect([held.names, held.count]).toEqual([[], 1])
    expect(held.descriptorTable.adoptLeft()).toBe(true)
    expect([held.names, held.count]).toEqual([['of 2'], 1])
  })

  it('leave the list of unused listeners when the member registers the same socket after its Ready, under any name, not another of that name', () => {
    const { descriptorTable } = new Held()
    const [before, next] = [member(1), member(2)]
    const web = listening('web')
    descriptorTable.hold(before, web)
    descriptorTable.hold(before, listening('api'))
    const shop = listening('shop')
    descriptorTable.hold(before, shop)
    next.refused = new Set(['web', 'api', 'shop'])
    descriptorTable.holdProvisionally(next, listening('api'))
    descriptorTable.holdProvisionally(next, { ...web, fd: web.fd.share() })
    descriptorTable.holdProvisionally(next, { ...shop, name: 'store', fd: shop.fd.share() })
    expect([...next.refused]).toEqual(['api'])
  })

  it('show which listeners the next version does not use, under no name', () => {
    const held = new Held()
    held.machine = restartedHolder()
    const [standby, serving] = [member(1), member(2)]
    const [web, other] = [listening('web'), listening('other')]
    held.descriptorTable.arrive(serving, [entryItem({ ...web, name: 'renamed', fd: web.fd.dup() })])
    held.descriptorTable.arrive(standby, [entryItem(web), entryItem(other), entryItem(named('file'))])
    for (const peer of [standby, serving]) reattach(peer, false, held)
    expect(held.descriptorTable.notBrought(standby, serving)).toEqual(['other'])
  })

  it('close if a name or specification is too long for a takeover by the next daemon', () => {
    const held = new Held()
    const peer = member(1)
    const whole = () => ({ ...entryItem(named('whole')), name: 'x'.repeat(256) })
    for (const long of [{ name: 'x'.repeat(257) }, { spec: 'x'.repeat(4_097) }]) {
      const faulty = () => ({ ...entryItem(named('faulty')), ...long })
      held.descriptorTable.arrive(peer, [faulty(), whole()])
      expect(takeRegistered(peer, true, held)).toMatchObject({ code: 'ERR_FDB_OPTION' })
      expect([held.names, held.count]).toEqual([['x'.repeat(256)], 1])
      held.descriptorTable.arrive(peer, [faulty()])
      reattach(peer, true, held)
      expect([held.names, held.count]).toEqual([['x'.repeat(256)], 1])
    }
  })

  it('stay for members that may serve later, and close for all others', () => {
    const { descriptorTable } = new Held()
    const [joiner, failed] = [member(1), member(2)]
    const [kept, dropped] = [named('a'), named('a')]
    descriptorTable.holdProvisionally(joiner, kept)
    descriptorTable.holdProvisionally(failed, dropped)
    descriptorTable.keepProvisional([undefined, joiner])
    expect([kept.fd.closed, dropped.fd.closed]).toEqual([false, true])
    expect(descriptorTable.entriesFor(joiner)).toEqual([kept])
    expect(descriptorTable.entriesFor(failed)).toEqual([])
  })

  it('become the service’s when it serves for good; entries that it did not ask for close', () => {
    const { descriptorTable } = new Held()
    const [first, next] = [member(1), member(2)]
    const [old, both, fresh] = [named('old'), named('both'), named('both')]
    descriptorTable.hold(first, old)
    descriptorTable.hold(first, both)
    descriptorTable.holdProvisionally(next, fresh)
    expect(descriptorTable.entriesFor(next)).toEqual([old, fresh])
    expect(descriptorTable.entriesFor(first)).toEqual([old, both])
    descriptorTable.settle(next)
    expect([old, both, fresh].map(({ fd }) => fd.closed)).toEqual([true, true, false])
    expect(descriptorTable.held.entries).toEqual([fresh])
  })

  it('come back to the previous version after a restart of the daemon: what the successor has named, not what both have', () => {
    const { descriptorTable } = new Held()
    const [first, next] = [member(1), member(2)]
    const [old, both, fresh, own, more] = [
      named('ledger'),
      named('both'),
      named('ledger'),
      named('own'),
      named('more'),
    ]
    descriptorTable.setBrought(first, [old, both, own])
    descriptorTable.setBrought(next, [fresh, { ...both, fd: both.fd.dup() }, listening('web')])
    descriptorTable.adopt(next)
    descriptorTable.holdProvisionally(next, more)
    descriptorTable.handBack(next, first)
    expect(descriptorTable.takeOwed(first).map(({ name }) => name)).toEqual(['ledger', 'more'])
    descriptorTable.settle(first)
    const held = (name: string) => inspectOne(descriptorTable.held.get(name)!.fd).ino
    expect(descriptorTable.held.names.toSorted()).toEqual(['both', 'ledger', 'more', 'own'])
    expect(old.fd.closed).toBe(true)
    expect(held('ledger')).not.toBe(held('both'))
    expect([...first.adopted].toSorted()).toEqual(['both', 'ledger', 'more', 'own'])
  })

  it('come back also if the successor has left before its return, and only then', () => {
    for (const hasServed of [false, true]) {
      const { descriptorTable } = new Held()
      const [first, next] = [member(1), member(2)]
      const [old, fresh, left] = [named('ledger'), named('ledger'), named('left')]
      descriptorTable.keepLate([fresh])
      descriptorTable.setBrought(first, [old])
      descriptorTable.setBrought(next, [left, listening('web')])
      descriptorTable.keepBrought(next, { id: 2, role: 'serving', epoch: 3, top: null })
      descriptorTable.forget(next)
      descriptorTable.adopt(first, hasServed)
      const owed = descriptorTable.takeOwed(first)
      expect(owed).toEqual(hasServed ? [] : [left, fresh])
      expect(descriptorTable.held.entries).toEqual(hasServed ? [old] : owed)
      expect([old, fresh, left].map(({ fd }) => fd.closed)).toEqual([!hasServed, hasServed, hasServed])
    }
  })

  it('reach the standby that takes over after a restart of the daemon from a successor that does not answer', () => {
    const target = new Held()
    const { descriptorTable } = target
    const given: (string | undefined)[] = []
    const connected = (pid: number): Peer => {
      const sendBundle = async (items: readonly BundleItem[]) => {
        given.push(...items.map(({ name }) => `${pid} ${name}`))
      }
      return Object.assign(member(pid), { link: { open: true, channel: {}, sendBundle } })
    }
    const [first, next] = [connected(1), connected(2)]
    descriptorTable.setBrought(first, [named('own'), listening('web')])
    descriptorTable.setBrought(next, [named('ledger'), listening('web')])
    const rebuilding = restartedHolder()
    const returning: HolderState = { ...rebuilding, phase: 'returning', owner: 2, joiner: 1 }
    const peer = (id: number) => [first, next].find(each => each.id === id)
    handBack(rebuilding, returning, peer, target)
    handBack(returning, { ...returning, phase: 'committing' }, peer, target)
    descriptorTable.settle(first)
    expect(given).toEqual(['1 ledger'])
    expect(descriptorTable.held.names.toSorted()).toEqual(['ledger', 'own', 'web'])
  })

  it('makes room for itself: more names than a service may have, of two versions together, are not too many', () => {
    const { descriptorTable, said } = new Held()
    const [first, next] = [member(1), member(2)]
    for (const entry of many('old', 6_000)) descriptorTable.hold(first, entry)
    for (const entry of many('new', 4_001)) descriptorTable.holdProvisionally(next, entry)
    descriptorTable.settle(next)
    expect(said).toEqual([])
    expect(descriptorTable.held.names).toEqual(many('new', 4_001).map(({ name }) => name))
  })

  it('close above the limit of the service, with those of the previous version that it asked for, and the log says so', () => {
    const { descriptorTable, said } = new Held()
    const [first, next] = [member(1), member(2)]
    for (const entry of many('old', 6_000)) descriptorTable.hold(first, entry)
    next.adopted = new Set(descriptorTable.held.names)
    const entries = many('new', 4_002)
    for (const entry of entries) descriptorTable.holdProvisionally(next, entry)
    descriptorTable.settle(next)
    expect(said).toEqual(['ERR_FDB_TOO_MANY_NAMES 2'])
    expect([descriptorTable.held.size, entries.filter(({ fd }) => fd.closed).length]).toEqual([10_000, 2])
  })

  it('keeps the path of a Unix listener that it has under another name, and those of others go', () => {
    const { descriptorTable } = new Held()
    const folder = mkdtempSync(join(tmpdir(), 'fdb-custody-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const at = (name: string): ListenerEntry => {
      const spec = parseListenerSpec(`unix:${join(folder, name)}`)
      return listenerEntry(name, spec, bindListener(spec))
    }
    const [first, next] = [member(1), member(2)]
    const stays = at('stays')
    descriptorTable.hold(first, stays)
    descriptorTable.hold(first, at('goes'))
    // One that does not matter comes first.
    descriptorTable.holdProvisionally(next, named('other'))
    descriptorTable.holdProvisionally(next, { ...stays, name: 'now', fd: stays.fd.dup() })
    descriptorTable.settle(next)
    // The path, and its second name.
    expect(readdirSync(folder)).toEqual(['.stays.fd-broker', 'stays'])
  })

  it('may have an address that this release cannot read: its path is left alone', () => {
    const { descriptorTable } = new Held()
    const [first, next] = [member(1), member(2)]
    descriptorTable.hold(first, listening('strange', 'unix:/run/shop.sock?option-of-a-later-release=1'))
    descriptorTable.hold(first, listening('web'))
    descriptorTable.holdProvisionally(next, listening('web'))
    descriptorTable.settle(next)
    expect(descriptorTable.held.names).toEqual(['web'])
  })

  it('appear once in the log, however many a returning member brings, and one that serves for good has registered', () => {
    const { descriptorTable } = new Held()
    const peer = member(1)
    const names = Array.from({ length: 20 }, (_, i) => `l${i}`)
    let told = 0
    descriptorTable.held.changed = () => {
      told++
    }
    descriptorTable.setBrought(peer, names.map(named))
    descriptorTable.adopt(peer)
    expect([told, descriptorTable.held.size]).toEqual([1, 20])
    for (const name of names) descriptorTable.holdProvisionally(peer, named(name))
    descriptorTable.settle(peer)
    expect([told, descriptorTable.held.size]).toEqual([2, 20])
    descriptorTable.held.changed = () => {}
  })

  it('stay closed if they were dropped meanwhile; later ones count', () => {
    const { descriptorTable } = new Held()
    const peer = member(1)
    const [dropped, other, anew] = [named('web'), named('other'), named('web')]
    descriptorTable.arrive(peer, [entryItem(dropped), entryItem(other)])
    descriptorTable.markRegistered(peer)
    descriptorTable.release(peer, 'web', true)
    descriptorTable.arrive(peer, [entryItem(anew)])
    expect(dropped.fd.closed).toBe(true)
    descriptorTable.release(peer, 'other', true)
    expect(descriptorTable.takeUnclaimed(peer)).toEqual([entryItem(anew)])
    anew.fd.close()
  })

  it('goes with it, whatever had come of it', () => {
    const held = new Held()
    const { descriptorTable } = held
    const peer = member(1)
    descriptorTable.holdProvisionally(peer, named('provisional'))
    descriptorTable.arrive(peer, [entryItem(named('arrived'))])
    descriptorTable.setBrought(peer, [named('brought')])
    descriptorTable.forget(peer)
    expect(held.count).toBe(0)
  })
})

describe('the entries of a member that dies as soon as it may have accepted', () => {
  it('become the service’s where it has none of the name, with no descriptor more, and as far as it may have more', () => {
    const held = new Held()
    const { descriptorTable } = held
    const [first, dead] = [member(1), member(2)]
    const [both, fresh, late] = [named('both'), named('fresh'), named('late')]
    for (const entry of many('old', 9_998)) descriptorTable.hold(first, entry)
    descriptorTable.hold(first, named('both'))
    for (const entry of [both, fresh, late]) descriptorTable.holdProvisionally(dead, entry)
    const { count } = held
    descriptorTable.inherit(dead)
    expect(held.said).toEqual(['ERR_FDB_TOO_MANY_NAMES 1'])
    expect([both, fresh, late].map(({ fd }) => fd.closed)).toEqual([true, false, true])
    expect([descriptorTable.held.get('fresh')?.fd, descriptorTable.held.size, held.count]).toEqual([
      fresh.fd,
      10_000,
      count - 2,
    ])
  })
})

describe('the entries that a member brings back to its daemon', () => {
  it('close when another member serves for good, and do not come back when their member serves later', () => {
    const held = new Held()
    const table = held.descriptorTable
    const [serving, other] = [member(1), member(2)]
    table.setBrought(serving, [named('present')])
    table.setBrought(other, [named('former')])
    table.settle(serving)
    expect(held.names).toEqual(['present'])
    other.adopted.add('present')
    table.settle(other)
    expect(held.names).toEqual(['present'])
  })

  it('become the service’s where it lacks them, when the serving member brings them', () => {
    const held = new Held()
    const { descriptorTable } = held
    const peer = member(1)
    descriptorTable.hold(peer, named('here'))
    descriptorTable.arrive(peer, [entryItem(named('here')), entryItem(named('lacking'))])
    reattach(peer, true, held)
    expect([held.names, held.count]).toEqual([['here', 'lacking'], 2])
  })

  it('close where the service has as much as it may have', () => {
    const held = new Held()
    Object.assign(held, { limits: { service: 'shop', limits: { ...LIMITS, descriptors: 2, listeners: 0 } } })
    const peer = member(1)
    held.descriptorTable.hold(peer, named('here'))
    held.descriptorTable.arrive(peer, [
      entryItem(listening('web')),
      entryItem(named('lacking')),
      entryItem(named('too many')),
    ])
    reattach(peer, true, held)
    expect([held.names, held.count]).toEqual([['here', 'lacking'], 2])
  })

  it('close when another member serves', () => {
    const held = new Held()
    const other = member(2)
    held.descriptorTable.arrive(other, [
      entryItem(named('web')),
      { role: 'control', fd: named('control').fd },
    ])
    reattach(other, false, held)
    expect([held.names, held.count]).toEqual([[], 0])
  })

  it('count alone against the limit of the service when that is settled, however much else it had', () => {
    const { descriptorTable } = new Held()
    const peer = member(2)
    for (const entry of many('old', 6_000)) descriptorTable.hold(member(1), entry)
    descriptorTable.setBrought(peer, many('new', 4_001))
    descriptorTable.adopt(peer)
    expect(descriptorTable.held.names).toEqual(many('new', 4_001).map(({ name }) => name))
  })

  it('stay until it is settled which member serves, when the daemon was started again', () => {
    const held = new Held()
    held.machine = restartedHolder()
    const [one, other] = [member(1), member(2)]
    held.descriptorTable.arrive(one, [entryItem(named('one'))])
    held.descriptorTable.arrive(other, [entryItem(named('other'))])
    reattach(one, false, held)
    reattach(other, false, held)
    expect([held.names, held.count]).toEqual([[], 2])
    held.descriptorTable.settle(other)
    expect([held.names, held.count]).toEqual([['other'], 1])
  })
})

describe('the lone holdings of a daemon of a service', () => {
  it('have names: listeners with their addresses, other descriptors, and the state', () => {
    const { descriptorTable, machine, segmentSet } = new Held()
    const web = listening('web')
    descriptorTable.hold(member(1), web)
    descriptorTable.hold(member(1), named('lease'))
    segmentSet.make([1])
    const known = { service: 'shop', machine, registry: descriptorTable.held, segmentSet, stateFile: '' }
    expect(soleCopyOf({ ...known, peer: () => undefined })).toEqual({
      service: 'shop',
      listeners: [expect.stringMatching(/^web .*127\.0\.0\.1:\d+$/)],
      held: ['lease'],
      stateBytes: 0,
      stateFile: null,
    })
  })

  it('exclude all while a member that serves, will serve or stands by lives, or is awaited, and where there is nothing', () => {
    const { descriptorTable, machine, segmentSet } = new Held()
    const known = { service: 'shop', registry: descriptorTable.held, segmentSet, stateFile: '/state' }
    expect(soleCopyOf({ ...known, machine, peer: () => undefined })).toBeNull()
    descriptorTable.hold(member(1), named('lease'))
    const living = (id: number) => (id === 1 ? member(1) : undefined)
    const others = { owner: NOBODY, joiner: NOBODY, standby: NOBODY }
    for (const role of ['owner', 'joiner', 'standby'] as const)
      expect(soleCopyOf({ ...known, machine: { ...machine, ...others, [role]: 1 }, peer: living })).toBeNull()
    expect(soleCopyOf({ ...known, machine: restartedHolder(), peer: () => undefined })).toBeNull()
    expect(soleCopyOf({ ...known, machine, peer: () => undefined })?.stateFile).toBe('/state')
  })
})
