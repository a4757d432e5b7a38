import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Balancer } from '../../src/proxy/upstreams/balance.js'

const names = (count: number) => Array.from({ length: count }, (_, i) => `s${i}`)
const RULES = { failures: 3, coolDown: 1000 }

/** Brings these servers down at time `now`. */
function down(balancer: Balancer, servers: Iterable<string>, now: number): void {
  for (const server of servers) for (let i = 0; i < RULES.failures; i++) balancer.failed(server, now)
}

describe('servers', () => {
  it('that are healthy are taken in turn, each equally often, whichever are down', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.nat({ max: 4095 }),
        fc.nat({ max: 20 }),
        fc.integer({ min: 1, max: 5 }),
        (count, mask, before, rounds) => {
          const balancer = new Balancer(names(count), RULES)
          for (let i = 0; i < before; i++) balancer.pick(0)
          const broken = names(count).filter((_, i) => mask & (1 << i))
          down(balancer, broken, 0)
          const eligible =
            broken.length === count ? names(count) : names(count).filter(name => !broken.includes(name))
          const picks = Array.from({ length: eligible.length * rounds }, () => balancer.pick(1))
          for (const name of eligible) expect(picks.filter(pick => pick === name)).toHaveLength(rounds)
          expect(balancer.healthy(1)).toEqual(names(count).filter(name => !broken.includes(name)))
        },
      ),
      { seed: 51, numRuns: 1000 },
    )
  })

  it('are each tried once by a request, the healthy ones first', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 10 }),
        fc.nat({ max: 1023 }),
        fc.nat({ max: 20 }),
        (count, mask, before) => {
          const balancer = new Balancer(names(count), RULES)
          for (let i = 0; i < before; i++) balancer.pick(0)
          const broken = names(count).filter((_, i) => mask & (1 << i))
          down(balancer, broken, 0)
          const tried = new Set<string>()
          const order: string[] = []
          for (let next = balancer.pick(1, tried); next !== undefined; next = balancer.pick(1, tried)) {
            tried.add(next)
            order.push(next)
          }
          expect(order).toHaveLength(count)
          expect(tried.size).toBe(count)
          expect(new Set(order.slice(0, count - broken.length))).toEqual(
            new Set(names(count).filter(name => !broken.includes(name))),
          )
        },
      ),
      { seed: 52, numRuns: 500 },
    )
  })

  it('behave as a model in any course of events', () => {
    const event = fc.record({
      kind: fc.constantFrom('fail', 'fail', 'succeed', 'wait', 'pick', 'configure'),
      at: fc.nat({ max: 3 }),
      time: fc.nat({ max: 700 }),
    })
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), events => {
        let present = names(4)
        const balancer = new Balancer(present, RULES)
        const model = new Map(present.map(name => [name, { failures: 0, until: 0 }]))
        let now = 1
        for (const { kind, at, time } of events) {
          const name = `s${at}`
          const entry = model.get(name)
          if (kind === 'wait') now += time
          else if (kind === 'configure') {
            present = entry ? present.filter(each => each !== name) : [...present, name]
            if (entry) model.delete(name)
            else model.set(name, { failures: 0, until: 0 })
            balancer.configure(present, RULES)
          } else if (kind === 'succeed') {
            balancer.succeeded(name)
            if (entry) Object.assign(entry, { failures: 0, until: 0 })
          } else if (kind === 'fail') {
            const goesDown = entry !== undefined && ++entry.failures >= 3 && entry.until <= now
            if (entry && goesDown) entry.until = now + 1000
            expect(balancer.failed(name, now)).toBe(goesDown)
          } else {
            const healthy = present.filter(each => model.get(each)!.until <= now)
            expect(balancer.healthy(now)).toEqual(healthy)
            const picked = balancer.pick(now)
            if (present.length === 0) expect(picked).toBeUndefined()
            else expect(healthy.length > 0 ? healthy : present).toContain(picked)
          }
        }
      }),
      { seed: 53, numRuns: 1000 },
    )
  })

  it('take their turn again after the cool-down, and go down again by one failure', () => {
    const balancer = new Balancer(names(2), RULES)
    down(balancer, ['s0'], 0)
    expect([balancer.healthy(999), balancer.healthy(1000)]).toEqual([['s1'], ['s0', 's1']])
    expect([balancer.failed('s0', 1000), balancer.healthy(1001)]).toEqual([true, ['s1']])
    balancer.succeeded('s0')
    expect([balancer.failed('s0', 1002), balancer.healthy(1002)]).toEqual([false, ['s0', 's1']])
  })

  it('never go down when that is off', () => {
    const balancer = new Balancer(['a'], { failures: null, coolDown: 1 })
    for (let i = 0; i < 10; i++) expect(balancer.failed('a', i)).toBe(false)
    expect(balancer.healthy(10)).toEqual(['a'])
  })
})
