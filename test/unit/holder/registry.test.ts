import { expect, it } from 'vitest'
import { namedEntry } from '../../../src/holder/entry.js'
import { MAX_ENTRIES, Registry } from '../../../src/holder/registry.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'

it('a service names so many descriptors and no more: the one too many is closed, others can be exchanged', () => {
  const registry = new Registry()
  const [raw, peer] = native.socketPair()
  native.close(peer)
  const one = OwnedFd.own(raw, 'one')
  for (let i = 0; i < MAX_ENTRIES; i++) registry.put(namedEntry(`n${i}`, one))
  const over = one.dup()
  expect(() => registry.put(namedEntry('over', over))).toThrow(
    expect.objectContaining({ code: 'ERR_FDB_TOO_MANY_NAMES', message: expect.stringContaining('"over"') }),
  )
  expect(over.closed).toBe(true)
  registry.put(namedEntry('n0', one))
  expect(registry.size).toBe(MAX_ENTRIES)
  registry.close()
})

it('a descriptor that the application has closed itself keeps no other one open', () => {
  const registry = new Registry()
  // No process has a descriptor of this number: a test must not close one that another thread may have opened since.
  const gone = () => OwnedFd.own(2 ** 30, 'closed by the application')
  const [raw, peer] = native.socketPair()
  native.close(peer)
  const other = OwnedFd.own(raw, 'other')
  registry.put(namedEntry('replaced', gone()))
  registry.put(namedEntry('replaced', gone()))
  expect(registry.drop('replaced')).toBe(true)
  registry.put(namedEntry('gone', gone()))
  registry.put(namedEntry('other', other))
  registry.close()
  expect(other.closed).toBe(true)
  expect(registry.size).toBe(0)
})
