import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { DescriptorStore } from '../../../src/daemon/service/descriptor-store.js'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { inspectOne, memoryFile, type OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { until } from '../../processes/until.js'

const ME = { pid: 7, uid: 0 }

function put(
  store: DescriptorStore,
  name: string,
  rest: { ms?: number; lifetime?: OwnedFd; replace?: boolean } = {},
) {
  const fd = memoryFile(name, 'a memory file')
  const { lifetime = null, ms = null, replace = false } = rest
  store.put({ name, fd, lifetime, ms, replace, by: ME })
  return fd
}

function open() {
  const registry = new Registry()
  onTestFinished(() => registry.close())
  return { registry, store: new DescriptorStore(registry) }
}

describe('the descriptors that are held', () => {
  it('get and lose no claim of a process while the next daemon takes over: that one would not know it', () => {
    const registry = new Registry()
    onTestFinished(() => registry.close())
    let settled = true
    using store = new DescriptorStore(registry, () => settled)
    put(store, 'spool')
    put(store, 'other')
    const me = () => openPidfd(process.pid) as OwnedFd
    const claim = (name: string) => store.claim({ name, by: ME, shared: false, claimant: me() }).fd.close()
    claim('spool')
    settled = false
    const busy = expect.objectContaining({ code: 'ERR_FDB_BUSY', retryable: true })
    expect(() => claim('other')).toThrow(busy)
    using claimant = me()
    expect(() => store.release('spool', ME, claimant)).toThrow(busy)
    expect(store.list().map(({ claimedBy }) => claimedBy)).toEqual([null, process.pid])
  })

  it('can be claimed by a process that has asked in time, though the daemon was stopped then', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const { store } = open()
    put(store, 'spool', { ms: 1_000 })
    vi.advanceTimersByTime(1_000)
    store.claim({ name: 'spool', by: ME, shared: true, claimant: null }).fd.close()
    await new Promise(resolve => setImmediate(resolve))
    expect(store.list()).toEqual([])
  })

  it('become entries of the registry: its next owner has them and their leases', async () => {
    const { registry, store } = open()
    const child = spawn('sleep', ['600'], { stdio: 'ignore' })
    await once(child, 'spawn')
    const fd = put(store, 'a/b %')
    put(store, 'timed', { ms: 3_600_000 })
    put(store, 'while', { lifetime: openPidfd(child.pid!) as OwnedFd })
    store.claim({ name: 'timed', by: ME, shared: false, claimant: null }).fd.close()
    const before = store.list()
    const wanted = new Set(registry.wanted)
    expect([...wanted].sort()).toEqual([...registry.names].sort())
    registry.put(namedEntry('shop/listener/web', memoryFile('not ours', 'a memory file')))
    registry.put(namedEntry('fd/strange', memoryFile('strange', 'a memory file'), 'of another release'))
    store[Symbol.dispose]()
    expect(store.list()).toEqual([])

    registry.wanted.clear()
    const next = new DescriptorStore(registry)
    next.takeOver()
    expect(next.list()).toEqual(before.map(each => ({ ...each, claimedBy: null })))
    expect(registry.wanted).toEqual(wanted)
    using mine = next.claim({ name: 'a/b %', by: ME, shared: true, claimant: null }).fd
    expect(inspectOne(mine).ino).toBe(inspectOne(fd).ino)
    child.kill('SIGKILL')
    await until('it went with the process', () => next.size === 2)
    expect(registry.names.filter(name => name.startsWith('lifetime/'))).toEqual([])
    next[Symbol.dispose]()
  })

  it('need no further descriptor for the leases and claims after a takeover: the daemon watches their own, for as long as they are there', async () => {
    const { registry, store } = open()
    const child = spawn('sleep', ['600'], { stdio: 'ignore' })
    await once(child, 'spawn')
    const pidfd = () => openPidfd(child.pid!) as OwnedFd
    put(store, 'lease', { lifetime: pidfd() })
    put(store, 'claimed')
    store.claim({ name: 'claimed', by: ME, shared: true, claimant: pidfd() }).fd.close()
    store[Symbol.dispose]()
    const before = native.openCount()
    store.takeOver()
    expect([native.openCount(), registry.size]).toEqual([before, 4])
    // Again, in the same turn: another process has taken over, and failed.
    store[Symbol.dispose]()
    store.takeOver()
    child.kill('SIGKILL')
    await until('they went with the process', () => registry.size === 1)
    expect(native.openCount()).toBe(before - 3)
    store[Symbol.dispose]()
  })

  it('have each claim once, also if the daemon takes over what a failed next one has stored', () => {
    const { registry, store } = open()
    put(store, 'before')
    const own = () => openPidfd(process.pid) as OwnedFd
    store.claim({ name: 'before', by: ME, shared: true, claimant: own() }).fd.close()
    const failed = new DescriptorStore(registry)
    put(failed, 'later')
    failed[Symbol.dispose]()
    store.takeOver()
    expect(store.list().map(({ name }) => name)).toEqual(['before', 'later'])
    expect(store.usersOf(() => true)).toMatchObject([{ pid: process.pid, names: ['before'] }])
    store[Symbol.dispose]()
  })

  it('become free by the connection that has claimed them, although its process has claimed them too', () => {
    const { store } = open()
    put(store, 'spool')
    const claim = (claimant: OwnedFd | null) =>
      store.claim({ name: 'spool', by: ME, shared: false, claimant }).fd.close()
    claim(null)
    claim(openPidfd(process.pid) as OwnedFd)
    store.release('spool', ME, null)
    expect(store.list()).toMatchObject([{ claimedBy: process.pid, users: [{ exclusive: true }] }])
    using claimant = openPidfd(process.pid) as OwnedFd
    store.release('spool', ME, claimant)
    expect(store.list()).toMatchObject([{ claimedBy: null, users: [] }])
    store[Symbol.dispose]()
  })

  it('stay when the process or the time of what they replace has come to its end', async () => {
    const { store } = open()
    const child = spawn('sleep', ['600'], { stdio: 'ignore' })
    await once(child, 'spawn')
    const whileItLives = () => ({ lifetime: openPidfd(child.pid!) as OwnedFd })
    put(store, 'spool', whileItLives())
    put(store, 'timed', { ms: 1 })
    put(store, 'spool', { replace: true })
    put(store, 'timed', { replace: true })
    put(store, 'last', whileItLives())
    put(store, 'late', { ms: 2 })
    child.kill('SIGKILL')
    await until('both are gone', () => store.size === 2)
    expect(store.list().map(({ name, until, whilePid }) => [name, until, whilePid])).toEqual([
      ['spool', null, null],
      ['timed', null, null],
    ])
    store[Symbol.dispose]()
  })

  it('stay when the clock was set back since they were put', async () => {
    const { registry, store } = open()
    const note = JSON.stringify({ pid: 7, putAt: Date.now(), until: Date.now() + 2 ** 33 })
    registry.put(namedEntry('fd/it', memoryFile('it', 'a memory file'), note))
    store.takeOver()
    onTestFinished(() => store[Symbol.dispose]())
    // A timer that cannot run for so long runs for a millisecond.
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(store.list().map(({ name }) => name)).toEqual(['it'])
  })

  it('have no claim of a process that has claimed an earlier one of their name', () => {
    const { store } = open()
    const claim = () => {
      const claimant = openPidfd(process.pid) as OwnedFd
      store.claim({ name: 'spool', by: ME, shared: true, claimant }).fd.close()
    }
    put(store, 'spool')
    claim()
    store.remove('spool')
    put(store, 'spool')
    expect(store.usersOf(() => true)).toEqual([])
    claim()
    put(store, 'spool', { replace: true })
    expect(store.usersOf(() => true)).toEqual([])
    store[Symbol.dispose]()
  })

  it('close when they cannot be held, and nothing else does', () => {
    const { registry, store } = open()
    const held = put(store, 'it')
    const refused = memoryFile('refused', 'a memory file')
    const noPidfd = memoryFile('no pidfd', 'a memory file')
    const order = { name: 'it', fd: refused, lifetime: noPidfd, ms: null, replace: true, by: ME }
    expect(() => store.put(order)).toThrow(expect.objectContaining({ code: 'ERR_FDB_NO_PIDFD' }))
    expect([refused.closed, noPidfd.closed, held.closed]).toEqual([true, true, false])
    expect(() =>
      store.put({ ...order, fd: memoryFile('twice', 'a memory file'), lifetime: null, replace: false }),
    ).toThrow(expect.objectContaining({ code: 'ERR_FDB_FD_TAKEN' }))
    expect(registry.names).toEqual(['fd/it'])
    store.remove('it')
    expect([held.closed, registry.size, store.soleCopies]).toEqual([true, 0, []])
    store[Symbol.dispose]()
  })
})
