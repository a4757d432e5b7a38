import { afterEach, describe, expect, it, vi } from 'vitest'
import { asker, bucketsOn, LIMIT, limiterOf, scene } from '../../fixtures/rate-limits.js'

afterEach(() => void vi.useRealTimers())

describe('a rate limit', () => {
  it('lets a burst pass, and then requests at its rate', () => {
    const asks = asker(scene().buckets)
    expect([asks(), asks(), asks()]).toEqual(['passes', 'passes', 'Retry-After,1'])
    vi.advanceTimersByTime(99)
    expect(asks()).toBe('Retry-After,1')
    vi.advanceTimersByTime(1)
    expect([asks(), asks()]).toEqual(['passes', 'Retry-After,1'])
    vi.advanceTimersByTime(60_000)
    expect([asks(), asks(), asks()]).toEqual(['passes', 'passes', 'Retry-After,1'])
  })

  it('does not lose time to fractions', () => {
    const asks = asker(scene().buckets, { ...LIMIT, requests: 3, burst: 3 })
    for (let second = 0; second < 100; second++) {
      expect([asks(), asks(), asks(), asks()]).toEqual(['passes', 'passes', 'passes', 'Retry-After,1'])
      vi.advanceTimersByTime(1_000)
    }
  })

  it.each([
    ['address', [['1.1.1.1'], ['1.1.1.1'], ['1.1.1.2']], 'same other'],
    ['address', [['2001:db8::1'], ['2001:db8:0:0:9::'], ['2001:db8:0:1::1']], 'same other'],
    ['address', [['::1'], ['::'], ['1::']], 'same other'],
    ['address', [['::ffff:1.1.1.1'], ['::ffff:1.1.1.2'], ['']], 'other other'],
    ['all', [['1.1.1.1'], ['1.1.1.2'], ['']], 'same same'],
    [
      'header:X-Key',
      [
        ['', 'a'],
        ['', 'a'],
        ['', 'b'],
      ],
      'same other',
    ],
    ['header:X-Key', [['1.1.1.1'], ['1.1.1.2'], ['', '-']], 'same other'],
    [
      'cookie:k',
      [
        ['', '', 'k=a; x'],
        ['', '', 'y=1;k=a'],
        ['', '', 'k=b'],
      ],
      'same other',
    ],
  ] as const)('counts by %s: %j', (by, requests, wanted) => {
    const asks = asker(scene().buckets, { ...LIMIT, burst: 1, by })
    const [first, ...others] = requests.map(([client, key, cookie]) =>
      asks(client, { ...(key && { 'x-key': key }), ...(cookie && { cookie }) }),
    )
    expect(first).toBe('passes')
    expect(others.map(each => (each === 'passes' ? 'other' : 'same')).join(' ')).toBe(wanted)
  })

  it('counts apart from others, unless they have its name', () => {
    const { buckets } = scene()
    const once = { ...LIMIT, burst: 1 }
    const [one, same, other] = [
      asker(buckets, { ...once, name: 'api' }),
      asker(buckets, { ...once, name: 'api', requests: 5 }),
      asker(buckets, once),
    ]
    expect([one(), same(), other()]).toEqual(['passes', 'Retry-After,1', 'passes'])
  })

  it('bounds the keys that it remembers, and forgets the one that was not seen for the longest time', () => {
    const { buckets } = scene(3)
    const asks = asker(buckets, { ...LIMIT, burst: 1 })
    expect(['1', '2', '3', '1', '4'].map(client => asks(client)).slice(3)).toEqual([
      'Retry-After,1',
      'passes',
    ])
    expect(buckets.size).toBe(3)
    expect([asks('1'), asks('2')]).toEqual(['Retry-After,1', 'passes'])
  })

  it('refuses for no longer than a bucket takes to fill if the clock is set back', () => {
    const asks = asker(scene().buckets, { ...LIMIT, burst: 1 })
    asks()
    vi.setSystemTime(Date.now() - 3_600_000)
    expect(asks()).toBe('Retry-After,1')
    vi.advanceTimersByTime(100)
    expect(asks()).toBe('passes')
  })

  it('of a kind that only newer versions know limits nothing', () => {
    expect(limiterOf({ ...LIMIT, by: 'planet' }, scene().buckets)).toBeNull()
  })
})

describe('the buckets of two processes', () => {
  it('fill again after the clock was set back, also if both have written before', async () => {
    const { log, buckets: one } = scene()
    const two = bucketsOn(log)
    const limit = { ...LIMIT, requests: 1, burst: 3 }
    const [asksOne, asksTwo] = [asker(one, limit), asker(two, limit)]
    expect([asksOne(), asksTwo()]).toEqual(['passes', 'passes'])
    await Promise.all([one.share(), two.share()])
    vi.setSystemTime(Date.now() - 3_600_000)
    asksOne()
    vi.advanceTimersByTime(1_000)
    expect(asksOne()).toBe('passes')
    await one.share()
    vi.advanceTimersByTime(3_000)
    expect([asksTwo(), asksTwo(), asksTwo(), asksTwo()].join(' ')).toMatch(/^passes passes passes Retry/)
  })

  const slow = { ...LIMIT, requests: 1, per: 3_600_000, burst: 5 }

  it('have together what one would have', async () => {
    const { log, buckets: one } = scene()
    const two = bucketsOn(log)
    const [asksOne, asksTwo] = [asker(one, slow), asker(two, slow)]
    expect([asksOne(), asksOne(), asksTwo(), asksTwo()]).toEqual(Array(4).fill('passes'))
    await Promise.all([one.share(), two.share()])
    expect([asksOne(), asksOne()]).toEqual(['passes', 'Retry-After,3600'])
    await one.share()
    expect(asksTwo()).toBe('Retry-After,3600')
    // A next version, which has seen none of the requests.
    expect(asker(bucketsOn(log), slow)()).toBe('Retry-After,3600')
  })

  it('have no secrets of clients in the state, and no entry that is full', async () => {
    const { buckets, section } = scene()
    const asks = asker(buckets, { ...slow, requests: 3_600, by: 'header:X-Key' })
    asks('', { 'x-key': 'secret' })
    await buckets.share()
    const [key = ''] = section.keys()
    expect(key).toMatch(/^[\w-]{16} [\w-]{16}$/)
    vi.advanceTimersByTime(1_000)
    await buckets.share()
    expect(section.size).toBe(0)
    // Full before others can hear of it.
    asker(buckets, { ...slow, requests: 36_000 })()
    await buckets.share()
    expect(section.size).toBe(0)
  })

  it('write a bounded number of entries, at a time and together', async () => {
    const { buckets, section } = scene(300)
    const asks = asker(buckets, slow)
    for (let n = 0; n < 400; n++) asks(`10.0.${n >> 8}.${n & 255}`)
    await buckets.share()
    expect(section.size).toBe(256)
    await buckets.share()
    expect(section.size).toBe(300)
    asks('1.1.1.1')
    await buckets.share()
    expect([section.size, buckets.size]).toEqual([300, 300])
  })
})
