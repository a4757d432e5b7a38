import { describe, expect, it } from 'vitest'
import {
  afterEvent,
  Balancer,
  type HealthEvent,
  type ServerHealth,
  UP,
} from '../../src/proxy/upstreams/balance.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const evenly = (servers: readonly string[]) => servers.map(address => ({ address, weight: 1 }))
const names = (count: number) => Array.from({ length: count }, (_, i) => `s${i}`)
const RULES = { failures: 3, coolDown: 1000 }
/** How many servers, and which of them are broken: any number from none to all. */
const group = fc
  .integer({ min: 2, max: 20 })
  .chain(count => fc.tuple(fc.constant(names(count)), fc.subarray(names(count)), fc.nat({ max: 40 })))

/** Takes these servers out at time `now`. */
function takeOut(balancer: Balancer, servers: Iterable<string>, now: number): void {
  for (const server of servers) for (let i = 0; i < RULES.failures; i++) balancer.recordFailure(server, now)
}

const healthy = (balancer: Balancer, all: readonly string[]) => {
  const out = new Set(balancer.out(0).map(({ address }) => address))
  return all.filter(each => !out.has(each))
}

/** A balancer that has had `turns` requests, with some servers out since time 0. */
function balancerOf(servers: string[], out: string[], turns: number): Balancer {
  const balancer = new Balancer(evenly(servers), RULES)
  for (let i = 0; i < turns; i++) balancer.pick(0)
  takeOut(balancer, out, 0)
  return balancer
}

const count = (picks: (string | undefined)[], name: string) => picks.filter(pick => pick === name).length

describe('servers', () => {
  it('take turns while they are up, each equally often, whichever are out', () => {
    fc.assert(
      fc.property(group, fc.integer({ min: 1, max: 5 }), ([servers, out, turns], rounds) => {
        const balancer = balancerOf(servers, out, turns)
        const up = servers.filter(name => !out.includes(name))
        expect(healthy(balancer, servers)).toEqual(up)
        expect(balancer.allUp).toBe(out.length === 0)
        const used = up.length === 0 ? servers : up
        const picks = Array.from({ length: used.length * rounds }, () => balancer.pick(999))
        for (const name of used) expect(count(picks, name)).toBe(rounds)
      }),
      { seed: 51, numRuns: perLane(250, 1000) },
    )
  })

  it('get requests by their weights, exactly in each round, whichever are out', () => {
    const weights = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 20, maxLength: 20 })
    fc.assert(
      fc.property(group, weights, ([servers, out], weights) => {
        const weighted = servers.map((address, n) => ({ address, weight: weights[n]! }))
        const balancer = new Balancer(weighted, RULES)
        takeOut(balancer, out, 0)
        const used = weighted.filter(({ address }) => out.length === servers.length || !out.includes(address))
        const round = used.reduce((sum, { weight }) => sum + weight, 0)
        for (let n = 0; n < 2; n++) {
          const picks = Array.from({ length: round }, () => balancer.pick(999))
          for (const { address, weight } of used) expect(count(picks, address)).toBe(weight)
        }
        const tried = new Set<string>()
        for (let next = balancer.pick(1, tried); next !== undefined; next = balancer.pick(1, tried))
          tried.add(next)
        expect(tried.size).toBe(servers.length)
      }),
      { seed: 56, numRuns: perLane(250, 1000) },
    )
  })

  it('get one try each of a request, those that are up first', () => {
    fc.assert(
      fc.property(group, ([servers, out, turns]) => {
        const balancer = balancerOf(servers, out, turns)
        const tried = new Set<string>()
        const order: string[] = []
        for (let next = balancer.pick(1, tried); next !== undefined; next = balancer.pick(1, tried)) {
          tried.add(next)
          order.push(next)
        }
        expect(order).toHaveLength(servers.length)
        expect(tried.size).toBe(servers.length)
        const up = servers.filter(name => !out.includes(name))
        expect(new Set(order.slice(0, up.length))).toEqual(new Set(up))
      }),
      { seed: 52, numRuns: perLane(250, 500) },
    )
  })

  it('get their share when they have recovered, after one probe each, in the first requests after the cool-down', () => {
    fc.assert(
      fc.property(group, fc.nat({ max: 5000 }), ([servers, out, turns], late) => {
        const balancer = balancerOf(servers, out, turns)
        const now = 1000 + late
        const probes = Array.from({ length: out.length }, () => balancer.pick(now))
        expect(new Set(probes)).toEqual(new Set(out))
        for (const name of out) expect(balancer.recordSuccess(name, now)).toBe(true)
        expect(balancer.allUp).toBe(true)
        const picks = Array.from({ length: servers.length * 3 }, () => balancer.pick(now))
        for (const name of servers) expect(count(picks, name)).toBe(3)
      }),
      { seed: 53, numRuns: perLane(250, 1000) },
    )
  })

  it('get one request a cool-down while they stay broken, as long as another server is up', () => {
    fc.assert(
      fc.property(
        group.filter(([servers, out]) => out.length < servers.length),
        fc.integer({ min: 1, max: 300 }),
        ([servers, out, turns], step) => {
          const balancer = balancerOf(servers, out, turns)
          const lost = new Map(out.map(name => [name, 0]))
          for (let now = 1; now < 10_000; now += step) {
            const picked = balancer.pick(now)!
            const failures = lost.get(picked)
            if (failures === undefined) continue
            lost.set(picked, failures + 1)
            expect(balancer.recordFailure(picked, now)).toBe(false)
          }
          for (const failures of lost.values()) expect(failures).toBeLessThanOrEqual(9)
        },
      ),
      { seed: 54, numRuns: perLane(150, 300) },
    )
  })

  it('have one probe at a time; a probe without an outcome is followed by another after the cool-down', () => {
    const balancer = new Balancer(evenly(names(3)), RULES)
    takeOut(balancer, ['s1'], 0)
    const picks = (now: number) => Array.from({ length: 6 }, () => balancer.pick(now))
    expect(count(picks(999), 's1')).toBe(0)
    expect(count(picks(1000), 's1')).toBe(1)
    expect(count(picks(1999), 's1')).toBe(0)
    expect(count(picks(2000), 's1')).toBe(1)
    balancer.recordUndecided('s1', 2001)
    expect(count(picks(2001), 's1')).toBe(1)
    expect(healthy(balancer, names(3))).toEqual(['s0', 's2'])
  })

  it('get no probe by a request that failed on another server, unless none is up', () => {
    const balancer = new Balancer(evenly(names(3)), RULES)
    takeOut(balancer, ['s0'], 0)
    expect(balancer.pick(2000, new Set(['s1']))).toBe('s2')
    expect(balancer.pick(2000, new Set(['s1', 's2']))).toBe('s0')
  })

  it('behave as their model in any course of events', () => {
    const event = fc.record({
      kind: fc.constantFrom(
        'fail',
        'fail',
        'succeed',
        'undecided',
        'wait',
        'pick',
        'pick',
        'configure',
        'check',
      ),
      at: fc.nat({ max: 4 }),
      time: fc.nat({ max: 700 }),
    })
    fc.assert(
      fc.property(fc.array(event, { maxLength: 80 }), events => {
        let present = names(4)
        const balancer = new Balancer(evenly(present), RULES)
        const model = new Map<string, ServerHealth>(present.map(name => [name, UP]))
        /** The servers whose checks fail. */
        const failing = new Set<string>()
        let now = 1
        const apply = (name: string, what: HealthEvent): [boolean, boolean] => {
          const before = model.get(name)
          if (before === undefined) return [false, false]
          model.set(name, afterEvent(before, what, RULES, now))
          return [before.kind === 'up', model.get(name)!.kind === 'up']
        }
        for (const { kind, at, time } of events) {
          const name = `s${at}`
          if (kind === 'wait') now += time
          else if (kind === 'configure') {
            present = model.has(name) ? present.filter(each => each !== name) : [...present, name]
            if (!model.delete(name)) model.set(name, UP)
            if (!present.includes(name)) failing.delete(name)
            balancer.configure(evenly(present), RULES)
          } else if (kind === 'check') {
            balancer.setFailing(name, !failing.has(name))
            if (!failing.delete(name) && present.includes(name)) failing.add(name)
          } else if (kind === 'succeed') {
            const [was, is] = apply(name, 'succeeded')
            expect(balancer.recordSuccess(name, now)).toBe(!was && is)
          } else if (kind === 'fail') {
            const [was, is] = apply(name, 'failed')
            expect(balancer.recordFailure(name, now)).toBe(was && !is)
          } else if (kind === 'undecided') {
            apply(name, 'undecided')
            balancer.recordUndecided(name, now)
          } else {
            const picked = balancer.pick(now)
            if (present.length === 0) expect(picked).toBeUndefined()
            else {
              const passing = present.filter(each => !failing.has(each))
              const due = passing.filter(each => {
                const health = model.get(each)!
                return health.kind !== 'up' && health.until <= now
              })
              const up = passing.filter(each => model.get(each)!.kind === 'up')
              const used = [due, up, passing, present].find(each => each.length > 0)
              expect(used).toContain(picked)
              apply(picked!, 'picked')
            }
          }
          const up = present.filter(each => model.get(each)!.kind === 'up' && !failing.has(each))
          expect(healthy(balancer, present)).toEqual(up)
          expect(balancer.allUp).toBe(up.length === present.length)
        }
      }),
      { seed: 55, numRuns: perLane(250, 1000) },
    )
  })

  it('go out after so many failures in a row, and until a request succeeds', () => {
    const fail = (health: ServerHealth, now: number) => afterEvent(health, 'failed', RULES, now)
    const second = fail(fail(UP, 0), 0)
    expect(second).toEqual({ kind: 'up', failures: 2 })
    expect(afterEvent(second, 'succeeded', RULES, 0)).toEqual(UP)
    const down = fail(second, 5)
    expect(down).toEqual({ kind: 'down', until: 1005 })
    // A request that was on its way before prolongs nothing.
    expect(fail(down, 900)).toEqual(down)
    const probe = afterEvent(down, 'picked', RULES, 1005)
    expect(probe).toEqual({ kind: 'probing', until: 2005 })
    expect(fail(probe, 1300)).toEqual({ kind: 'down', until: 2300 })
    expect(afterEvent(probe, 'succeeded', RULES, 1300)).toEqual(UP)
  })

  it('never go out when that is off, and come back when it is switched off', () => {
    const never = { failures: null, coolDown: 1 }
    const balancer = new Balancer(evenly(['a']), never)
    for (let i = 0; i < 10; i++) expect(balancer.recordFailure('a', i)).toBe(false)
    expect(healthy(balancer, ['a'])).toEqual(['a'])
    balancer.configure(evenly(['a']), RULES)
    takeOut(balancer, ['a'], 0)
    expect(healthy(balancer, ['a'])).toEqual([])
    balancer.configure(evenly(['a']), never)
    expect([healthy(balancer, ['a']), balancer.allUp]).toEqual([['a'], true])
  })
})

const WITH_BACKUPS = [
  { address: 'a', weight: 1 },
  { address: 'b', weight: 1 },
  { address: 'x', weight: 1, backup: true },
  { address: 'y', weight: 1, backup: true },
]

function scene(servers = WITH_BACKUPS, kind: 'round-robin' | 'least-connections' = 'round-robin') {
  const balancer = new Balancer(
    servers,
    { failures: 1, coolDown: 100 },
    { balancing: { kind }, busy: () => 0 },
  )
  const picks = (count: number, now: number, tried: string[] = []) =>
    Array.from({ length: count }, () => balancer.pick(now, new Set(tried)))
  return { balancer, picks }
}

describe('backup servers', () => {
  it.each(['round-robin', 'least-connections'] as const)(
    'get requests in turn while all others are out, and until a trial is due (%s)',
    kind => {
      const { balancer, picks } = scene(WITH_BACKUPS, kind)
      expect(picks(4, 0)).toEqual(['a', 'b', 'a', 'b'])
      balancer.setFailing('a', true)
      expect(picks(2, 0)).toEqual(['b', 'b'])
      balancer.recordFailure('b', 0)
      expect(picks(4, 1)).toEqual(['x', 'y', 'x', 'y'])
      expect(balancer.usable(1)).toEqual(['x', 'y'])
      expect(balancer.usable(100)).toEqual(['b'])
      expect(picks(3, 100)).toEqual(['b', 'x', 'y'])
      balancer.recordSuccess('b', 101)
      expect(picks(2, 101)).toEqual(['b', 'b'])
    },
  )

  it('get a request that all others could not serve', () => {
    const { balancer, picks } = scene()
    expect(picks(1, 0, ['a'])).toEqual(['b'])
    expect(picks(2, 0, ['a', 'b'])).toEqual(['x', 'y'])
    expect(balancer.usable(0, new Set(['a', 'b']))).toEqual(['x', 'y'])
  })

  it('come last if all are out, first those whose checks pass', () => {
    const { balancer, picks } = scene()
    for (const { address } of WITH_BACKUPS) balancer.recordFailure(address, 0)
    expect(picks(2, 1)).toEqual(['a', 'b'])
    balancer.setFailing('a', true)
    balancer.setFailing('b', true)
    expect(picks(2, 1)).toEqual(['x', 'y'])
    expect(balancer.usable(1)).toEqual(['x', 'y'])
  })

  it('get all requests if there are no others', () => {
    expect(scene(WITH_BACKUPS.slice(2)).picks(2, 0)).toEqual(['x', 'y'])
  })

  it('get no request by a cookie while another is usable', () => {
    const { balancer } = scene()
    expect(balancer.pick(0, undefined, undefined, 'x')).toBe('a')
    balancer.setFailing('a', true)
    balancer.setFailing('b', true)
    expect(balancer.pick(0, undefined, undefined, 'y')).toBe('y')
  })
})
