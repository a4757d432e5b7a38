import { describe, expect, it } from 'vitest'
import { ClientTally } from '../../../src/relay/index.js'

describe('the connections of a client', () => {
  it.each([
    ['2001:db8::1', '2001:db8::ffff:1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::'],
    ['2001:db8:1:2::1', '2001:db8:1:2:ffff:ffff:ffff:ffff'],
    ['1:0:2:3::', '1::2:3:0:0:0:9'],
    ['::1', '::2'],
  ])('count together in a network of 64 bits: %s and %s', (one, other) => {
    const tally = new ClientTally()
    tally.add(one)
    tally.add(other)
    expect([tally.of(one), tally.of(other)]).toEqual([2, 2])
    tally.remove(one)
    tally.remove(other)
    expect(tally.of(one)).toBe(0)
  })

  it.each([
    ['2001:db8::1', '2001:db8:0:1::1'],
    ['2001:db8:1:2::1', '2001:db8:1:3::1'],
    ['fe80::1', 'fe80::2'],
    ['10.0.0.1', '10.0.0.2'],
  ])('count apart in others, on one link, and with IPv4: %s and %s', (one, other) => {
    const tally = new ClientTally()
    tally.add(one)
    expect([tally.of(one), tally.of(other)]).toEqual([1, 0])
  })

  it('without an address are not counted', () => {
    const tally = new ClientTally()
    tally.add('')
    expect(tally.of('')).toBe(0)
  })
})
