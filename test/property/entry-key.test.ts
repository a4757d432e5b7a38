import { describe, expect, it } from 'vitest'
import { type EntryKey, formatEntryKey, parseEntryKey } from '../../src/daemon/service/entry-key.js'
import fc from '../lanes/generated.js'

const name = fc.string({ unit: 'grapheme' })
const keys: fc.Arbitrary<EntryKey> = fc.oneof(
  fc.record({ of: fc.constant('service' as const), service: name, role: name, name }),
  fc.record({ of: fc.constantFrom('fd' as const, 'lifetime' as const), name }),
  fc.record({
    of: fc.constant('claim' as const),
    name: fc.string({ unit: 'grapheme', minLength: 1 }),
    id: fc.stringMatching(/^[\d.]+$/),
  }),
)

describe('the key of an entry in the registry of a daemon', () => {
  it('reads as it was written', () => {
    fc.assert(
      fc.property(keys, key => {
        expect(parseEntryKey(formatEntryKey(key))).toEqual(key)
      }),
    )
  })

  it.each([
    [{ of: 'service', service: 'shop', role: 'listener', name: 'a/b' }, 'shop/listener/a%2Fb'],
    [{ of: 'fd', name: 'shop/disk' }, 'fd/shop%2Fdisk'],
    [{ of: 'lifetime', name: 'disk' }, 'lifetime/disk'],
    [{ of: 'claim', name: 'disk', id: '17.1' }, 'claim/disk%3A17.1'],
  ] as const)('has the form of earlier releases: %j', (key, text) => {
    expect(formatEntryKey(key)).toBe(text)
  })

  it.each(['', 'fd', 'other/disk', 'claim/disk', 'a/b/c/d', 'fd/%zz'])('gives null for %j', text => {
    expect(parseEntryKey(text)).toBeNull()
  })
})
