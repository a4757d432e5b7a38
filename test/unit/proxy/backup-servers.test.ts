import { describe, expect, it } from 'vitest'
import { Balancer } from '../../../src/proxy/upstreams/balance.js'
import { Upstreams } from '../../../src/proxy/upstreams/upstreams.js'
import type { ExchangeReport } from '../../../src/relay/index.js'
import { config, LEAST } from '../../fixtures/proxy-config.js'

const SERVERS = [
  { address: 'a', weight: 1 },
  { address: 'b', weight: 1 },
  { address: 'x', weight: 1, backup: true },
  { address: 'y', weight: 1, backup: true },
]

function scene(servers = SERVERS, kind: 'round-robin' | 'least-connections' = 'round-robin') {
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
      const { balancer, picks } = scene(SERVERS, kind)
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
    for (const { address } of SERVERS) balancer.recordFailure(address, 0)
    expect(picks(2, 1)).toEqual(['a', 'b'])
    balancer.setFailing('a', true)
    balancer.setFailing('b', true)
    expect(picks(2, 1)).toEqual(['x', 'y'])
    expect(balancer.usable(1)).toEqual(['x', 'y'])
  })

  it('are no backup if there are no others', () => {
    expect(scene(SERVERS.slice(2)).picks(2, 0)).toEqual(['x', 'y'])
  })

  it('are not wanted by a cookie while another is usable', () => {
    const { balancer } = scene()
    expect(balancer.pick(0, undefined, undefined, 'x')).toBe('a')
    balancer.setFailing('a', true)
    balancer.setFailing('b', true)
    expect(balancer.pick(0, undefined, undefined, 'y')).toBe('y')
  })
})

describe('a server that answers with errors', () => {
  const [A, B] = ['http://a:1', 'http://b:1'] as const
  function upstreams(health: string) {
    const out: unknown[][] = []
    const all = new Upstreams({
      onOut: (...facts) => void out.push(facts),
      onIn: (...facts) => void out.push(facts),
      onHealth() {},
    })
    all.configure(
      config(`${LEAST}upstreams: { app: { servers: ["${A}", "${B}"], health: ${health} } }`).upstreams,
    )
    const answers = (destination: string, ...statuses: number[]) => {
      for (const status of statuses)
        all.recordOutcome({
          subject: 'request',
          destination,
          status,
          serverFailed: false,
        } as unknown as ExchangeReport)
    }
    return { all, out, answers }
  }

  it('is skipped after so many in a row, and each other answer begins the count again', () => {
    const { all, out, answers } = upstreams('{ errors: 3 }')
    answers(A, 500, 503, 404, 500, 599)
    expect(out).toEqual([])
    answers(A, 502)
    expect(out).toEqual([['app', A, 'status 502']])
    expect(all.out).toMatchObject([{ server: A, state: 'down', reason: 'status 502' }])
    const { forward } = all.get('app')
    expect([1, 2].map(() => forward.pick([])?.key)).toEqual([B, B])
    answers(A, 200)
    expect(out.at(-1)).toEqual(['app', A])
    expect(all.out).toEqual([])
  })

  it('counts apart from failures, also if those never count', () => {
    const { all, answers } = upstreams('{ failures: off, errors: 2 }')
    answers(A, 500)
    all.recordOutcome({
      subject: 'request',
      destination: A,
      status: 0,
      serverFailed: true,
    } as unknown as ExchangeReport)
    expect(all.out).toEqual([])
    answers(A, 500)
    expect(all.out).toMatchObject([{ server: A, state: 'down' }])
  })

  it('goes on by default, and answers of the proxy never count', () => {
    const one = upstreams('{}')
    one.answers(A, 500, 500, 500, 500, 500)
    expect(one.all.out).toEqual([])
    const two = upstreams('{ errors: 1 }')
    const report = {
      subject: 'request',
      destination: A,
      status: 503,
      serverFailed: false,
      reason: 'queue-timeout',
    }
    two.all.recordOutcome(report as unknown as ExchangeReport)
    expect(two.all.out).toEqual([])
  })
})
