import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { parsePolicy } from '../../../src/daemon/policy/schema.js'
import { DescriptorStore } from '../../../src/daemon/service/descriptor-store.js'
import { RightsHolders } from '../../../src/daemon/service/recovery.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import { FdbError } from '../../../src/errors.js'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile, OwnedFd } from '../../../src/kernel/index.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { credentialsOf, identify } from '../../../src/os/process-identity.js'
import { daemonServices } from '../../holder-support/daemon-services.js'
import { callerWith, linked } from '../../holder-support/processes.js'
import { needsRoot } from '../../processes/second-user.js'
import { until } from '../../processes/until.js'

const OTHER = 12_001
const OWN = process.geteuid?.() ?? 0
const FULL = expect.objectContaining({ code: 'ERR_FDB_SHARE' })

/** How many of `most` connections of a user are admitted, and what closes the first. */
function connections(shares: UserQuotas, uid: number, most: number) {
  let admitted = 0
  const closes: (() => void)[] = []
  for (let i = 0; i < most; i++) {
    const closed = new Promise<void>(resolve => closes.push(resolve))
    if (shares.connect(uid, closed) === null) admitted++
  }
  return { admitted, close: () => closes[0]!() }
}

describe('the share of another user in a daemon', () => {
  it('of connections leaves most descriptors to the daemon’s user, and those of others to them', async () => {
    const shares = new UserQuotas(1_024)
    const { admitted, close } = connections(shares, OTHER, 2_000)
    expect(admitted).toBe(32)
    expect(shares.connect(OTHER, new Promise(() => {}))).toEqual(FULL)
    expect(connections(shares, OTHER + 1, 2_000).admitted).toBe(32)
    // Whatever the number of users: a quarter of all descriptors.
    let others = 0
    for (let user = 2; user < 100; user++) others += connections(shares, OTHER + user, 40).admitted
    expect(others + 64).toBe(128)
    expect(connections(shares, OWN, 2_000).admitted).toBe(2_000)
    expect(connections(shares, 0, 2_000).admitted).toBe(2_000)
    close()
    await Promise.resolve()
    await Promise.resolve()
    expect(shares.connect(OTHER, new Promise(() => {}))).toBe(null)
  })

  it('of watches, names and services is bounded, and comes back', () => {
    const shares = new UserQuotas(1_024)
    const ends = Array.from({ length: 16 }, () => shares.watch(OTHER))
    expect(() => shares.watch(OTHER)).toThrow(FULL)
    for (let i = 0; i < 100; i++) shares.watch(OWN)
    ends[0]!()
    // Once, however often it is said.
    ends[0]!()
    shares.watch(OTHER)
    expect(() => shares.watch(OTHER)).toThrow(FULL)
    shares.demandNames(OTHER, 32)
    expect(() => shares.demandNames(OTHER, 33)).toThrow(FULL)
    shares.demandNames(OWN, 10_000)
    shares.demandServices(OTHER, 32)
    expect(() => shares.demandServices(OTHER, 33)).toThrow(FULL)
    shares.demandServices(OWN, 900)
  })

  it('counts what it has put and claimed, also in the next daemon', () => {
    const registry = new Registry()
    onTestFinished(() => registry.close())
    const store = new DescriptorStore(registry)
    const by = { pid: 7, uid: OTHER }
    const fd = memoryFile('a', 'a memory file')
    store.put({ name: 'a', fd, lifetime: null, ms: null, replace: false, by })
    const claimant = openPidfd(process.pid) as OwnedFd
    store.claim({ name: 'a', by, shared: true, claimant }).fd.close()
    expect([store.countOf(OTHER), store.countOf(OWN)]).toEqual([2, 0])
    store[Symbol.dispose]()
    const next = new DescriptorStore(registry)
    next.takeOver()
    expect(next.countOf(OTHER)).toBe(2)
    next[Symbol.dispose]()
  })

  it('has the same descriptors in each next daemon, and those that are gone no more', async () => {
    const users = [OTHER, OTHER + 1, OWN]
    const names = ['a', 'b', 'c', 'd', 'e']
    const owners = names.map((_, i) => users[i % users.length]!)
    // A channel gives the next daemon another descriptor, which counts to no user yet.
    const arrived = (registry: Registry) => {
      const next = new Registry()
      onTestFinished(() => next.close())
      for (const { fd, name, note } of registry.named) {
        using other = OwnedFd.duplicate(fd.raw, name)
        next.put(namedEntry(name, other.share(), note))
      }
      return next
    }
    const counts = (quotas: UserQuotas) => users.map(uid => quotas.foreignUserOf(uid)?.fds.count ?? 0)
    let registry = new Registry()
    onTestFinished(() => registry.close())
    const first = new DescriptorStore(registry)
    for (const [i, name] of names.entries()) {
      const by = { pid: 7, uid: owners[i]! }
      const fd = memoryFile(name, 'a memory file')
      first.put({ name, fd, lifetime: null, ms: null, replace: false, by })
    }
    first[Symbol.dispose]()
    for (let daemon = 0; daemon < 3; daemon++) {
      registry = arrived(registry)
      const quotas = new UserQuotas(1_024)
      const store = new DescriptorStore(registry)
      store.takeOver(uid => quotas.foreignUserOf(uid)?.fds ?? null)
      // Another process has taken over, and failed.
      store[Symbol.dispose]()
      store.takeOver(uid => quotas.foreignUserOf(uid)?.fds ?? null)
      const ownedBy = (of: readonly number[]) => users.map(uid => of.filter(owner => owner === uid).length)
      const countedOf = (of: readonly number[]) => ownedBy(of.filter(owner => owner !== OWN))
      expect(counts(quotas)).toEqual(countedOf(owners.slice(daemon)))
      store.remove(names[daemon]!)
      const left = owners.slice(daemon + 1)
      expect(users.map(uid => store.countOf(uid))).toEqual(ownedBy(left))
      // A thread closes the descriptor.
      await until(
        'it is closed',
        () => String(counts(quotas)) === String(countedOf(left)),
        10_000,
        () => counts(quotas),
      )
      const spare = memoryFile('spare', 'a memory file')
      const [by, most] = [{ pid: 7, uid: OWN }, left.length + 1]
      store.put({ name: 'spare', fd: spare, lifetime: null, ms: null, replace: false, by, most })
      store.remove('spare')
      store[Symbol.dispose]()
    }
  })
})

describe('a member of the previous daemon', () => {
  it('delays nothing if the rules no longer allow its user to join', context => {
    needsRoot(context)
    const child = spawn('setpriv', [`--reuid=${OTHER}`, `--regid=${OTHER}`, '--clear-groups', 'sleep', '60'])
    onTestFinished(() => void child.kill('SIGKILL'))
    const folder = mkdtempSync(join(tmpdir(), 'fdb-revoked-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const list = new RightsHolders(join(folder, 'daemon.sock'))
    list.remember({ service: 'shop', generation: 1, startedAt: 1, members: [identify(child.pid!)] })
    list.write()
    const restored = (join: readonly object[]) => {
      const services = daemonServices(folder, {
        policy: parsePolicy(JSON.stringify({ default: { join } }), 'rules'),
      })
      services.restore()
      return services.get('shop')?.record.members.length
    }
    return until('it is another user’s', () => credentialsOf(child.pid!)?.uid === OTHER).then(() => {
      expect(restored([{ uid: OTHER }])).toBe(1)
      expect(restored([])).toBe(undefined)
    })
  })
})

describe('services', () => {
  function open() {
    const services = daemonServices(join(tmpdir(), 'fdb-no-such-folder'))
    const { link, heard } = linked()
    const begin = (service: string, uid: number) =>
      services.findOrCreate(callerWith({ hello: { service }, uid, link }))
    const refused = () => until('it is refused', () => heard[0]?.reject?.code)
    return { begin, refused, services }
  }

  it('number 1,000 at most, whatever users begin them', async () => {
    const { begin, refused, services } = open()
    for (let i = 0; i < 1_000; i++) expect(begin(`service ${i}`, OWN)).not.toBe(null)
    expect(begin('one more', OWN)).toBe(null)
    expect([await refused(), services.size]).toEqual(['ERR_FDB_SERVICE', 1_000])
    expect(begin('service 7', OWN)).toBe(services.get('service 7'))
  })

  it('end if the process that begins one is refused, because it cannot be watched', async () => {
    const { begin, services } = open()
    const { link } = linked()
    const pidfd = memoryFile('no pidfd', 'a memory file')
    begin('shop', OWN)!.join(callerWith({ hello: { service: 'shop' }, uid: OWN, link, pidfd }))
    await until('it is forgotten', () => services.size === 0)
    expect(pidfd.closed).toBe(true)
  })

  it('number 32 at most for one other user', async () => {
    const { begin, refused, services } = open()
    for (let i = 0; i < 32; i++) expect(begin(`theirs ${i}`, OTHER)).not.toBe(null)
    expect(begin('theirs too', OTHER)).toBe(null)
    expect(await refused()).toBe('ERR_FDB_SHARE')
    expect(begin('ours', OWN)).not.toBe(null)
    expect(services.size).toBe(33)
  })
  it('count with those that one user has begun at the previous daemon', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-shares-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const { link, heard } = linked()
    const callerOf = (service: string, own = linked().link) =>
      callerWith({
        hello: { service },
        uid: OTHER,
        intent: 'back',
        identity: identify(process.pid),
        link: own,
      })
    const first = daemonServices(folder)
    first.restore()
    for (let i = 0; i < 32; i++) {
      expect(first.findOrCreate(callerOf(`theirs ${i}`))).not.toBe(null)
    }
    // The owner writes the list of its services again.
    first.pause()
    first.resume()
    first.close({ kept: true })
    const next = daemonServices(folder)
    next.restore()
    expect([next.size, next.findOrCreate(callerOf('theirs too', link))]).toEqual([32, null])
    expect(await until('it is refused', () => heard[0]?.reject?.code)).toBe('ERR_FDB_SHARE')
  })
})

it('a service tells a failed handoff to those that wait for it when it knows the reason', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-failed-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const services = daemonServices(folder)
  const { far, heard, link } = linked()
  const callerOver = (own: typeof link) => callerWith({ hello: { service: 'shop' }, uid: OWN, link: own })
  const shop = services.findOrCreate(callerOver(link))!
  shop.join(callerOver(link))
  const hears = <T>(what: string, found: (each: (typeof heard)[number]) => T) =>
    until(what, () => heard.map(found).find(Boolean))
  far.post({ ready: {} })
  await hears('its segment is sealed', ({ sealed }) => sealed)
  far.post({ prepared: {} })
  const { epoch } = await hears('it may serve', ({ commit }) => commit)
  far.post({ serving: { epoch } })
  const { operations } = shop
  await until('it serves', () => operations.standing.owner !== null)
  const known: (string | undefined)[] = []
  vi.spyOn(operations, 'handoffFailed').mockImplementation(() => {
    known.push(operations.standing.lastFailure?.code)
  })
  shop.join(callerOver(linked().link))
  // The new segments are still being sent to the first member.
  operations.cancelHandoff(new FdbError('ERR_FDB_ABORTED', 'the upgrade was cancelled'))
  await until('the handoff has failed', () => known.length > 0)
  expect(known).toEqual(['ERR_FDB_ABORTED'])
})
