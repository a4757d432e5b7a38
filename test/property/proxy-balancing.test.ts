import { describe, expect, it } from 'vitest'
import { Balancer, type BalancerOptions } from '../../src/proxy/upstreams/balance.js'
import { balancingOf, hashKey, leastBusy, randomOf, rendezvous } from '../../src/proxy/upstreams/balancing.js'
import fc from '../lanes/generated.js'

const RULES = { failures: 1, coolDown: 1_000_000 }
const candidates = fc
  .array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 12 })
  .map(weights => weights.map((weight, n) => ({ address: `http://s${n}:80`, weight })))
const keys = Array.from({ length: 400 }, (_, n) => `client ${n}`)

describe('a hash', () => {
  it('moves only the keys of a server that leaves, and gives them back', () => {
    fc.assert(
      fc.property(candidates, fc.nat(), (all, at) => {
        const gone = all[at % all.length]!
        const rest = all.filter(each => each !== gone)
        if (rest.length === 0) return
        for (const key of keys.slice(0, 50)) {
          const before = rendezvous(all, key)
          if (before !== gone) expect(rendezvous(rest, key)).toBe(before)
        }
      }),
    )
  })

  it('does not depend on the order of the servers', () => {
    fc.assert(
      fc.property(candidates, fc.string(), (all, key) => {
        expect(rendezvous(all.toReversed(), key)).toBe(rendezvous(all, key))
      }),
    )
  })

  it('gives each server about its share', () => {
    const all = [1, 1, 2, 4].map((weight, n) => ({ address: `http://10.0.0.${n}:8080`, weight }))
    const many = Array.from({ length: 16_000 }, (_, n) => `10.1.${n >> 8}.${n & 255}`)
    const counts = new Map(all.map(({ address }) => [address, 0]))
    for (const key of many) {
      const { address } = rendezvous(all, key)
      counts.set(address, counts.get(address)! + 1)
    }
    for (const { address, weight } of all) {
      const share = counts.get(address)! / 2_000 / weight
      expect(share, address).toBeGreaterThan(0.9)
      expect(share, address).toBeLessThan(1.1)
    }
  })

  it('never changes: other versions must choose alike', () => {
    const all = ['http://10.0.0.1:8080', 'http://10.0.0.2:8080', 'unix:/run/app.sock'].map(address => ({
      address,
      weight: 1,
    }))
    expect(['', 'a', 'b', '10.0.0.9', 'é'].map(key => all.indexOf(rendezvous(all, key)))).toEqual([
      1, 2, 1, 2, 2,
    ])
  })

  it('takes the address, a header or a cookie', () => {
    const facts = (fields: Record<string, string>) => ({
      client: '10.0.0.1',
      header: (name: string) => fields[name.toLowerCase()],
    })
    const of = (text: string, fields: Record<string, string>) => {
      const balancing = balancingOf(text)
      return 'source' in balancing ? hashKey(balancing.source, facts(fields)) : null
    }
    expect(of('hash:address', {})).toBe('10.0.0.1')
    expect(of('hash:header:X-User', { 'x-user': 'seven' })).toBe('seven')
    expect(of('hash:header:X-User', { 'x-user': '' })).toBeUndefined()
    expect(of('hash:cookie:sid', { cookie: 'asid=1; sid=2; sid=3' })).toBe('2')
    expect(of('hash:cookie:sid', { cookie: 'a=1, sid = x=y ' })).toBe('x=y')
    expect(of('hash:cookie:sid', { cookie: 'sid; sid=' })).toBeUndefined()
    expect(of('hash:cookie:sid', {})).toBeUndefined()
  })
})

describe('a choice', () => {
  it('of the least busy has no candidate with less load for its weight', () => {
    fc.assert(
      fc.property(
        candidates,
        fc.array(fc.nat({ max: 9 }), { minLength: 12 }),
        fc.nat(),
        (all, loads, start) => {
          const busy = (address: string) => loads[all.findIndex(each => each.address === address)]!
          const load = (each: (typeof all)[number]) => (busy(each.address) + 1) / each.weight
          expect(load(leastBusy(all, busy, start))).toBe(Math.min(...all.map(load)))
        },
      ),
    )
  })

  it('by chance follows the weights', () => {
    fc.assert(
      fc.property(candidates, all => {
        const whole = all.reduce((sum, { weight }) => sum + weight, 0)
        const chosen = Array.from({ length: whole }, (_, n) => randomOf(all, (n + 0.5) / whole))
        for (const each of all) expect(chosen.filter(one => one === each)).toHaveLength(each.weight)
      }),
    )
  })
})

describe('a balancer', () => {
  const kinds = fc.constantFrom('random', 'two-choices', 'least-connections', 'hash:address', 'round-robin')
  const optionsOf = (text: string, busy: BalancerOptions['busy'] = () => 0): BalancerOptions => {
    const balancing = balancingOf(text)
    if (!('kind' in balancing)) throw new Error(text)
    return { balancing, busy }
  }

  it('of any kind uses only servers that are up, each once for a request, then the others', () => {
    fc.assert(
      fc.property(kinds, candidates, fc.nat({ max: 4095 }), fc.string(), (kind, all, mask, key) => {
        const balancer = new Balancer(all, RULES, optionsOf(kind))
        const out = all.filter((_, n) => (mask >> n) & 1).map(({ address }) => address)
        for (const address of out) balancer.recordFailure(address, 0)
        const tried = new Set<string>()
        const order: string[] = []
        for (
          let next = balancer.pick(1, tried, key);
          next !== undefined;
          next = balancer.pick(1, tried, key)
        ) {
          expect(tried.has(next)).toBe(false)
          tried.add(next)
          order.push(next)
        }
        const up = all.length - out.length
        expect(order).toHaveLength(all.length)
        expect(order.slice(0, up).filter(address => out.includes(address))).toEqual([])
      }),
    )
  })

  it('with a hash takes requests without its key in turn', () => {
    const all = ['a', 'b', 'c'].map(address => ({ address, weight: 1 }))
    const balancer = new Balancer(all, RULES, optionsOf('hash:cookie:sid'))
    expect([0, 1, 2, 3].map(() => balancer.pick(0))).toEqual(['a', 'b', 'c', 'a'])
    const chosen = balancer.pick(0, undefined, 'one')
    for (let n = 0; n < 5; n++) expect(balancer.pick(0, undefined, 'one')).toBe(chosen)
  })

  it('of the fewest connections passes over busy servers, and takes equals in turn', () => {
    const all = ['a', 'b', 'c'].map(address => ({ address, weight: 1 }))
    const busy = new Map([['b', 3]])
    const options = optionsOf('least-connections', address => busy.get(address) ?? 0)
    const balancer = new Balancer(all, RULES, options)
    expect(new Set(Array.from({ length: 6 }, () => balancer.pick(0)))).toEqual(new Set(['a', 'c']))
    const two = new Balancer(all.slice(0, 2), RULES, { ...options, balancing: { kind: 'two-choices' } })
    expect(new Set(Array.from({ length: 20 }, () => two.pick(0)))).toEqual(new Set(['a']))
  })
})
