import { expect, it, onTestFinished, vi } from 'vitest'
import { PersistedFds } from '../../../src/daemon/persisted-fds.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile, type OwnedFd } from '../../../src/kernel/index.js'
import { Segment } from '../../fixtures/state.js'

it('tries again to deposit what could not be duplicated, and drops what is no more', () => {
  const registry = new Registry()
  const persisted = new PersistedFds(registry)
  const fd = memoryFile('web', 'a memory file')
  onTestFinished(() => {
    registry.close()
    fd.close()
  })
  const items = ['a', 'b', 'c'].map(name => ({ role: 'named' as const, name, fd }))
  const names = (...which: string[]) => which.map(name => `shop/named/${name}`)
  persisted.update('shop', items.slice(1))
  const scarce = memoryFile('scarce', 'a memory file')
  onTestFinished(() => scarce.close())
  vi.spyOn(scarce, 'share').mockImplementationOnce(() => {
    throw new Error('EMFILE')
  })
  const more = [{ role: 'named' as const, name: 'scarce', fd: scarce }, items[2]!]
  expect(() => persisted.update('shop', more)).toThrow('EMFILE')
  persisted.update('shop', more)
  expect(registry.names.sort()).toEqual(names('c', 'scarce'))
  expect([...registry.wanted].sort()).toEqual(names('c', 'scarce'))
})

it('tells once of all that has changed', () => {
  const registry = new Registry()
  const fd = memoryFile('web', 'a memory file')
  onTestFinished(() => {
    registry.close()
    fd.close()
  })
  let told = 0
  registry.changed = () => {
    told++
  }
  const items = ['a', 'b', 'c'].map(name => ({ role: 'named' as const, name, fd }))
  const persisted = new PersistedFds(registry)
  persisted.update('shop', items)
  expect([told, registry.size]).toEqual([1, 3])
  persisted.update('shop', [])
  expect([told, registry.size]).toEqual([2, 0])
})

it('keeps the duplicate of what only changes its rights', () => {
  const registry = new Registry()
  const persisted = new PersistedFds(registry)
  const fd = memoryFile('epoch-1', 'a memory file')
  onTestFinished(() => {
    registry.close()
    fd.close()
  })
  const segment = { role: 'segment' as const, name: 'epoch-1', fd }
  persisted.update('shop', [{ ...segment, writable: true }])
  const [before] = registry.named
  persisted.update('shop', [{ ...segment, writable: false }])
  const [after] = registry.named
  expect([before?.note, after?.note]).toEqual(['writable', ''])
  expect(after?.fd).toBe(before?.fd)
  expect(after?.fd.closed).toBe(false)
})

it('refuses what this release cannot read, and says of which service it is', () => {
  const registry = new Registry()
  const persisted = new PersistedFds(registry)
  const [segment, other] = [Segment.create(1), memoryFile('of another format', 'a memory file')]
  onTestFinished(() => {
    registry.close()
    segment.close()
    other.close()
  })
  const of = (fd: OwnedFd) => [{ role: 'segment' as const, name: 'epoch-1', epoch: 1, writable: true, fd }]
  persisted.update('shop', of(segment.fd))
  persisted.demandReadable()
  persisted.update('mail', of(other))
  expect(() => persisted.demandReadable()).toThrow(
    expect.objectContaining({
      code: 'ERR_FDB_STATE_FORMAT',
      message: expect.stringMatching(
        /state of the service "mail" \(epoch-1\).*the previous daemon continues/,
      ),
    }),
  )
})

it('tells the next daemon which descriptors a member has named in its probation, beside those of the same name', () => {
  const registry = new Registry()
  const [fd, other] = [memoryFile('ledger', 'a memory file'), memoryFile('ledger', 'a memory file')]
  onTestFinished(() => {
    registry.close()
    fd.close()
    other.close()
  })
  const item = { role: 'named' as const, name: 'ledger', spec: 'a note' }
  new PersistedFds(registry).update('shop', [
    { ...item, fd },
    { ...item, fd: other, isProvisional: true },
  ])
  const next = new PersistedFds(registry)
  const items = next.claimAll().get('shop')!
  expect(items).toMatchObject([item, { ...item, isProvisional: true }])
  next.update('shop', items.slice(1))
  expect(registry.names).toEqual(['shop/provisional/ledger'])
  for (const { fd } of items) fd.close()
})
