import { mkdtempSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { type Entry, namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { bindSocket, closeAll, inspectOne, memoryFile, OwnedFd, openFile } from '../../../src/kernel/index.js'
import { recoverFromFdStore } from '../../../src/member/joining/fd-store-recovery.js'
import { FdStoreMirror } from '../../../src/member/operator/fd-store-mirror.js'
import { type FdStore, restorePassedSockets } from '../../../src/os/service-manager/passed-sockets.js'
import fc from '../../lanes/generated.js'
import { perLane } from '../../lanes/lane.js'

/** The store of a service manager. */
class Store implements Pick<FdStore, 'keep' | 'drop'> {
  kept: { name: string; fd: OwnedFd }[] = []
  keep(name: string, fd: OwnedFd): void {
    this.kept.push({ name, fd: fd.dup() })
  }
  /** All of this name. */
  drop(name: string): void {
    closeAll(this.kept.filter(one => one.name === name).map(({ fd }) => fd))
    this.kept = this.kept.filter(one => one.name !== name)
  }
}

it('gives each name its own descriptor back: of a file that is open twice, of a socket with two names, of one that was replaced', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-'))
  const file = join(folder, 'file')
  const opened = (flags: string) => openFile(file, flags, 'a file')
  const registry = new Registry()
  const put = (name: string, fd: OwnedFd) => registry.put(namedEntry(name, fd))
  const store = new Store()
  const control = [
    { role: 'control' as const, fd: memoryFile('control', 'in its place') },
    { role: 'lock' as const, fd: memoryFile('lock', 'in its place') },
  ]
  const storeMirror = new FdStoreMirror({
    origin: { generation: 1, serviceStartedAt: 0, scope: 'holder' },
    registry,
    settings: { service: 'shop' },
    segmentSet: new SegmentSet(),
    control: () => control,
    store,
  })
  onTestFinished(() => {
    storeMirror.close()
    registry.close()
    closeAll(control.map(({ fd }) => fd))
    restorePassedSockets([])
    rmSync(folder, { recursive: true })
  })
  put('writes', opened('w'))
  storeMirror.start()
  put('reads', opened('r'))
  const socket = bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }, 'a socket')
  put('one', socket)
  put('other', socket.dup())
  put('replaced', opened('r'))
  put('replaced', opened('w'))
  // A service manager keeps one more under a name that it has.
  const names = store.kept.map(({ name }) => name)
  expect(names).toEqual([...new Set(names)])
  const passed = (copy: (fd: OwnedFd) => OwnedFd) =>
    store.kept.map(({ name, fd }) => ({ name: `fdb.shop.${name}`, fd: copy(fd) }))
  const path = join(folder, 'nobody')
  const recovery = { service: 'shop', control: path, logger: SILENT, isFresh: true, discard: () => {} }
  const failing = passed(fd => fd.dup())
  restorePassedSockets(failing)
  const dup = vi.spyOn(OwnedFd.prototype, 'dup').mockImplementation(() => {
    throw new Error('no free descriptor')
  })
  expect(() => recoverFromFdStore(recovery)).toThrow('no free descriptor')
  dup.mockRestore()
  expect(failing.filter(({ fd }) => !fd.closed).map(({ name }) => name)).toEqual([])

  restorePassedSockets(passed(fd => fd))
  const legacy = recoverFromFdStore(recovery)!
  const fds = new Map(legacy.entries.map(({ name, fd }) => [name, fd]))
  onTestFinished(() => closeAll([...fds.values(), legacy.listener, legacy.lock]))
  expect([...fds.keys()].sort()).toEqual(registry.names.sort())
  expect(inspectOne(fds.get('other')!).ino).toBe(inspectOne(socket).ino)
  for (const name of ['writes', 'replaced']) expect(writeSync(fds.get(name)!.raw, 'x')).toBe(1)
  expect(readSync(fds.get('reads')!.raw, Buffer.alloc(1))).toBe(1)
})

it('gives a process that started earlier its own copy, unless a newer segment was written since or is missing', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-'))
  const [registry, segmentSet, store] = [new Registry(), new SegmentSet(), new Store()]
  const control = [
    { role: 'control' as const, fd: memoryFile('control', 'in its place') },
    { role: 'lock' as const, fd: memoryFile('lock', 'in its place') },
  ]
  segmentSet.make([1])
  const storeMirror = new FdStoreMirror({
    origin: { generation: 1, serviceStartedAt: 0, scope: 'holder' },
    registry,
    settings: { service: 'shop' },
    segmentSet,
    control: () => control,
    store,
  })
  onTestFinished(() => {
    storeMirror.close()
    segmentSet.close()
    closeAll([...control, ...store.kept].map(({ fd }) => fd))
    restorePassedSockets([])
    rmSync(folder, { recursive: true })
  })
  storeMirror.start()
  const passed = () => store.kept.map(({ name, fd }) => ({ name: `fdb.shop.${name}`, fd: fd.dup() }))
  const discarded: string[] = []
  const discard = (name: string) => void discarded.push(name)
  const recover = (copies: ReturnType<typeof passed>) => {
    restorePassedSockets(copies)
    const path = join(folder, 'nobody')
    return recoverFromFdStore({ service: 'shop', control: path, logger: SILENT, isFresh: false, discard })
  }
  const isSegment = ({ name }: { readonly name: string }) => name.startsWith('fdb.shop.epoch-')
  const incomplete = passed()
  for (const { fd } of incomplete.filter(isSegment)) fd.close()
  expect(recover(incomplete.filter(each => !isSegment(each)))).toBeNull()
  // As after its Commit, when another process writes in the next one.
  const later = passed()
  const found = recover(passed())!
  closeAll([found.listener, found.lock])
  for (const segment of found.segments) segment.close()
  expect(found.segments).toHaveLength(1)
  expect(recover(later)).toBeNull()
  expect([...incomplete, ...later].filter(({ fd }) => !fd.closed)).toEqual([])
  expect(discarded).toEqual([])
})

/** A store that keeps one descriptor of each file, as a service manager does. */
class DistinctStore extends Store {
  override keep(name: string, fd: OwnedFd): void {
    const { ino } = inspectOne(fd)
    if (!this.kept.some(each => each.name === name && inspectOne(each.fd).ino === ino)) super.keep(name, fd)
  }
}

/** A version of the service, with the descriptors of its listeners. */
class Version {
  readonly generation: number
  readonly registry = new Registry()
  readonly segments = new SegmentSet()
  readonly mirror: FdStoreMirror

  constructor(generation: number, store: Store, control: readonly ControlItem[]) {
    this.generation = generation
    this.segments.make([generation])
    this.mirror = new FdStoreMirror({
      origin: { generation, serviceStartedAt: 0, scope: 'holder' },
      registry: this.registry,
      settings: { service: 'shop' },
      segmentSet: this.segments,
      control: () => control,
      store,
    })
  }

  /** The inode of each listener. */
  get listeners(): Record<string, string> {
    return Object.fromEntries(this.registry.entries.map(({ name, fd }) => [name, inspectOne(fd).ino]))
  }

  close(): void {
    this.mirror.close()
    this.registry.close()
    this.segments.close()
  }
}

type ControlItem = ReturnType<ConstructorParameters<typeof FdStoreMirror>[0]['control']>[number]

const NAMES = ['web', 'admin', 'metrics']

type Step = { readonly does: 'opens' | 'closes'; readonly name: string } | { readonly does: 'next' | 'back' }

const STEP: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ does: fc.constantFrom('opens' as const, 'closes' as const), name: fc.constantFrom(...NAMES) }),
  fc.record({ does: fc.constantFrom('next' as const, 'back' as const) }),
)

it('gives the listeners of the version that serves, whatever versions have served before it, and returned', () => {
  const property = fc.property(fc.array(STEP, { minLength: 4, maxLength: 14 }), steps => {
    const store = new DistinctStore()
    const control = (['control', 'lock'] as const).map(role => ({
      role,
      fd: memoryFile(role, 'in its place'),
    }))
    let serving = new Version(1, store, control)
    let standby: Version | null = null
    try {
      serving.mirror.start()
      for (const step of steps) {
        if (step.does === 'opens')
          serving.registry.put(
            namedEntry(step.name, bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }, step.name)),
          )
        else if (step.does === 'closes') serving.registry.drop(step.name)
        else if (step.does === 'next') {
          const next: Version = new Version(serving.generation + 1, store, control)
          for (const { name, fd } of serving.registry.entries) next.registry.put(namedEntry(name, fd.dup()))
          serving.mirror.end()
          next.mirror.start()
          standby?.close()
          standby = serving
          serving = next
        } else if (standby !== null) {
          serving.mirror.end()
          standby.mirror.start()
          serving.close()
          serving = standby
          standby = null
        }
        // As after kill -9 of all.
        expect(recovered(store)).toEqual(serving.listeners)
      }
    } finally {
      serving.close()
      standby?.close()
      closeAll([...control, ...store.kept].map(({ fd }) => fd))
      restorePassedSockets([])
    }
  })
  const opened: Step[] = [
    { does: 'opens', name: 'web' },
    { does: 'opens', name: 'admin' },
  ]
  const returns: Step[] = [...opened, { does: 'next' }, { does: 'closes', name: 'admin' }, { does: 'back' }]
  const again: Step[] = [...opened, { does: 'next' }, { does: 'back' }, { does: 'next' }, { does: 'back' }]
  fc.assert(property, { numRuns: perLane(10, 1_000), examples: [[returns], [again]] })
})

/** A version and the one that it joins, which has the listener "web". `binds` is the next version's next listener of this name. */
function inProbation() {
  const store = new DistinctStore()
  const control = (['control', 'lock'] as const).map(role => ({ role, fd: memoryFile(role, 'in its place') }))
  const [incumbent, next] = [new Version(1, store, control), new Version(2, store, control)]
  const listens = (name: string) =>
    namedEntry(name, bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }, name))
  incumbent.registry.put(listens('web'))
  incumbent.mirror.start()
  for (const { name, fd } of incumbent.registry.entries) next.registry.put(namedEntry(name, fd.dup()))
  const bound = new Set<Entry>()
  next.registry.isProvisional = entry => bound.has(entry)
  onTestFinished(() => {
    for (const version of [incumbent, next]) version.close()
    closeAll([...control, ...store.kept].map(({ fd }) => fd))
    restorePassedSockets([])
  })
  return {
    incumbent,
    next,
    store,
    binds() {
      const entry = listens('web')
      bound.add(entry)
      next.registry.put(entry)
    },
    serves() {
      incumbent.mirror.end()
      next.mirror.start()
    },
    settles() {
      bound.clear()
      next.registry.changed()
    },
  }
}

const keptEntries = (store: Store) => store.kept.filter(({ name }) => name.startsWith('entry-'))

it.each(['before it serves', 'in its probation'])(
  'keeps the listener that a version has bound again %s until the version cannot be rolled back, then the new one alone',
  when => {
    const { binds, incumbent, next, serves, settles, store } = inProbation()
    if (when === 'before it serves') binds()
    serves()
    if (when === 'in its probation') binds()
    // A second time.
    binds()
    expect(recovered(store)).toEqual(incumbent.listeners)
    settles()
    expect(recovered(store)).toEqual(next.listeners)
    expect(keptEntries(store)).toHaveLength(1)
  },
)

it('keeps no listener that a version has closed before it served', () => {
  const { binds, next, serves, store } = inProbation()
  next.registry.drop('web')
  serves()
  expect(keptEntries(store)).toEqual([])
  binds()
  next.registry.drop('web')
  expect(keptEntries(store)).toEqual([])
})

it('keeps no listener that a version has bound again and closed', () => {
  const { binds, next, serves, store } = inProbation()
  serves()
  binds()
  next.registry.drop('web')
  expect(keptEntries(store)).toEqual([])
})

/** The inode of each listener that a process finds which starts after `kill -9`. */
function recovered(store: Store): Record<string, string> {
  restorePassedSockets(store.kept.map(({ name, fd }) => ({ name: `fdb.shop.${name}`, fd: fd.dup() })))
  const found = recoverFromFdStore({
    service: 'shop',
    control: join(tmpdir(), 'fdb-no-such-control'),
    logger: SILENT,
    isFresh: true,
    discard: () => {},
  })
  if (found === null) return {}
  const { entries, listener, lock, segments } = found
  const listeners = entries.map(({ name, fd }) => [name, inspectOne(fd).ino])
  closeAll([...entries.map(({ fd }) => fd), listener, lock])
  for (const segment of segments) segment.close()
  return Object.fromEntries(listeners)
}
