import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { Upstreams } from '../../../src/proxy/upstreams/upstreams.js'
import type { Destination, ExchangeReport } from '../../../src/relay/index.js'
import { config, LEAST } from '../../fixtures/proxy-config.js'

function configs(text: string) {
  return config(`${LEAST}upstreams:\n${text}`).upstreams
}

function upstreams(text: string) {
  const down: string[] = []
  const up: string[] = []
  const all = new Upstreams({
    onOut: (group, server) => down.push(`${group} ${server}`),
    onIn: (group, server) => up.push(`${group} ${server}`),
    onHealth: () => {},
  })
  all.configure(configs(text))
  return { all, down, up }
}

const [A, B, C] = ['http://a:1', 'http://b:2', 'http://c:3'] as const
const ended = (destination: string, reason?: string, status = 200, serverFailed = false): ExchangeReport => ({
  subject: 'request',
  serverFailed,
  listener: 'http',
  client: '',
  http2: false,
  http10: false,
  trail: null,
  unlogged: false,
  user: '',
  method: 'GET',
  target: '/',
  host: '',
  status,
  reason,
  destination,
  attempts: 1,
  bytesSent: 0,
  bytesReceived: 0,
  milliseconds: 0,
})

/** Keys of the servers that a request would be tried on. */
function tries(all: Upstreams, name: string): string[] {
  const tried: Destination[] = []
  for (;;) {
    const next = all.get(name).forward.pick(tried)
    if (next === null) return tried.map(({ key }) => key)
    tried.push(next)
  }
}

describe('groups of servers', () => {
  it('give each server its turn, and so many others for a retry', () => {
    const { all } = upstreams(`  app: { servers: ["${A}", "${B}", "${C}"], retry: 1 }`)
    expect([tries(all, 'app'), tries(all, 'app'), tries(all, 'app')]).toEqual([
      [A, B],
      [C, A],
      [B, C],
    ])
  })

  it('have a budget of requests that go on to another server: a reserve, and a share of all requests', () => {
    const { all } = upstreams(
      `  app: { servers: ["${A}"], resend: 50 }\n  none: { servers: ["${B}"], resend: 0 }`,
    )
    const taken = (name: string) => {
      const { mayResend } = all.get(name).forward
      return Array.from({ length: 2_000 }, () => mayResend!()).filter(Boolean).length
    }
    vi.useFakeTimers({ toFake: ['performance'] })
    onTestFinished(() => void vi.useRealTimers())
    expect([taken('app'), taken('none')]).toEqual([100, 0])
    for (let n = 0; n < 200; n++) all.get('app').forward.pick([])
    expect(taken('app')).toBe(100)
    vi.advanceTimersByTime(2_000)
    expect(taken('app')).toBe(20)
    vi.advanceTimersByTime(3_600_000)
    expect(taken('app')).toBe(1_000)
  })

  it('give a server that passes its checks again more requests from moment to moment, also in another process', () => {
    vi.useFakeTimers({ toFake: ['performance', 'Date'] })
    onTestFinished(() => void vi.useRealTimers())
    const text = (balance: string) =>
      `  app: { servers: ["${A}", "${B}"], check: tcp, slowStart: 10s, balance: ${balance} }`
    /** How many of 1,100 requests each server gets. */
    const shares = ({ forward }: ReturnType<Upstreams['get']>) => {
      const picks = Array.from({ length: 1_100 }, () => forward.pick([])!.key)
      return [A, B].map(server => picks.filter(each => each === server).length)
    }
    const verdict = { up: true, count: 0, since: Date.now(), reason: '' }
    const first = upstreams(text('round-robin')).all.get('app')
    expect(shares(first)).toEqual([550, 550])
    first.applyVerdict(B, { ...verdict, up: false })
    expect(shares(first)).toEqual([1_100, 0])
    first.applyVerdict(B, verdict)
    expect(shares(first)).toEqual([1_000, 100])
    vi.advanceTimersByTime(5_000)
    const second = upstreams(text('round-robin')).all
    second.get('app').applyVerdict(B, verdict)
    const chance = upstreams(text('random')).all.get('app')
    chance.applyVerdict(B, verdict)
    for (const half of [first, second.get('app'), chance]) expect(shares(half)[1]).toBeGreaterThan(310)
    for (const half of [first, second.get('app'), chance]) expect(shares(half)[1]).toBeLessThan(430)
    second.configure(configs(text('round-robin')))
    expect(shares(second.get('app'))[1]).toBeLessThan(430)
    vi.advanceTimersByTime(5_000)
    for (const whole of [first, second.get('app')]) expect(shares(whole)).toEqual([550, 550])
  })

  it('pass over servers that break off, until they answer', () => {
    const rules = 'retry: 0, health: { failures: 2, coolDown: 10m }'
    const { all, down, up } = upstreams(`  app: { servers: ["${A}", "${B}"], ${rules} }`)
    all.recordOutcome(ended(A, 'upstream-closed', 502, true))
    all.recordOutcome(ended(A))
    all.recordOutcome(ended(A, 'response-timeout', 504, true))
    expect(down).toEqual([])
    all.recordOutcome(ended(A, 'upstream-closed', 200, true))
    expect(down).toEqual([`app ${A}`])
    expect([tries(all, 'app'), tries(all, 'app')]).toEqual([[B], [B]])
    all.recordOutcome(ended(A))
    expect(up).toEqual([`app ${A}`])
    expect([tries(all, 'app'), tries(all, 'app')].flat().toSorted()).toEqual([A, B])
  })

  it('use no server whose check fails while the check of another passes', () => {
    const text = `  app: { servers: ["${A}", "${B}", "${C}"], retry: 9, check: http:/health }`
    const { all } = upstreams(text)
    const app = all.get('app')
    const fail = (server: string) => app.applyVerdict(server, { up: false, count: 0, since: 1, reason: 'no' })
    fail(A)
    expect([tries(all, 'app'), tries(all, 'app')].map(each => each.toSorted())).toEqual([
      [B, C],
      [B, C],
    ])
    // A request never tries the server, even if all others have just failed.
    for (let n = 0; n < 3; n++) for (const each of [B, C]) all.recordOutcome(ended(each, 'x', 502, true))
    expect(tries(all, 'app').toSorted()).toEqual([B, C])
    expect(all.out).toMatchObject([
      { server: A, state: 'failing', triedInSeconds: null, reason: 'no' },
      { server: B, state: 'down' },
      { server: C, state: 'down' },
    ])
    fail(B)
    fail(C)
    expect(tries(all, 'app').toSorted()).toEqual([A, B, C])
    app.applyVerdict(A, { up: true, count: 0, since: 2, reason: '' })
    expect(tries(all, 'app')).toEqual([A])
    all.configure(configs(text))
    expect(tries(all, 'app')).toEqual([A])
    all.configure(
      configs(`  app: { servers: ["${A}", "${B}", "${C}"], retry: 9, health: { failures: off } }`),
    )
    expect([tries(all, 'app').toSorted(), all.checked]).toEqual([[A, B, C], []])
    // Without a check the verdict of another version does not count.
    fail(A)
    expect(all.out).toEqual([])
  })

  it('count connections that fail, and what says nothing about a server not at all', () => {
    const { all, down } = upstreams(`  app: { servers: ["${A}"], health: { failures: 1 } }`)
    all.recordOutcome(ended(A, 'client-gone', 0))
    all.recordOutcome(ended(A, 'body-too-large', 413))
    all.recordOutcome(ended(A, 'connect-failed', 502))
    // A tunnel that was reset.
    all.recordOutcome(ended(A, 'upstream-closed', 101))
    expect(down).toEqual([])
    all.get('app').forward.pick([])?.failed?.('connect-failed', null)
    expect(down).toEqual([`app ${A}`])
    // Refusing for the rest of the time would make a short outage longer.
    expect(tries(all, 'app')).toEqual([A])
  })

  it('stay the same objects when the configuration changes, and serve nothing once it lacks them', () => {
    const { all } = upstreams(`  one: { servers: ["${A}"] }\n  two: { servers: ["${B}"] }`)
    const [one, two, three] = ['one', 'two', 'three'].map(name => all.get(name))
    expect([one, two, three].map(each => each!.configured)).toEqual([true, true, false])
    all.configure(configs(`  one: { servers: ["${C}"] }\n  three: { servers: ["${B}"] }`))
    expect(two!.configured).toBe(true)
    expect([...all.former]).toEqual(['two'])
    all.prune(new Set(['two']))
    expect(two!.configured).toBe(true)
    all.prune(new Set())
    expect([one, two, three].map(each => each!.configured)).toEqual([true, false, true])
    expect([...all.forRequests].toSorted()).toEqual(['one', 'three'])
    expect([tries(all, 'one'), tries(all, 'two'), tries(all, 'three')]).toEqual([[C], [], [B]])
    expect(all.get('one')).toBe(one)
    expect([all.findConfigured('two'), all.destination(C)?.key, all.destination(A)]).toEqual([
      undefined,
      C,
      undefined,
    ])
  })

  it('lose what the next configuration lacks: cookies, the queue, and the choice by a hash', () => {
    const { all } = upstreams(
      `  app: { servers: ["${A}"], connections: 9, sticky: edge, queue: 10, balance: hash:address }`,
    )
    const { forward } = all.get('app')
    expect([all.get('app').choosesByRequest, forward.sticky, forward.queue]).toEqual([
      true,
      expect.anything(),
      expect.anything(),
    ])
    all.configure(configs(`  app: { servers: ["${A}"] }`))
    expect([all.get('app').choosesByRequest, forward.sticky, forward.queue]).toEqual([
      false,
      undefined,
      undefined,
    ])
  })

  it('change at once with a store, unless its servers are of another kind', () => {
    const { all } = upstreams(`  one: { servers: ["${A}"] }`)
    for (const each of configs(`  one: { servers: ["tcp://a:1"] }`)) all.adopt(each)
    expect(tries(all, 'one')).toEqual([A])
    const others = configs(`  one: { servers: ["${B}"] }
  two: { servers: ["${C}"] }
  db: { servers: ["tcp://db:1"] }`)
    for (const each of others) all.adopt(each)
    expect([tries(all, 'one'), tries(all, 'two'), tries(all, 'db')]).toEqual([[B], [C], ['tcp://db:1']])
    expect([...all.former]).toEqual(['two'])
    expect([...all.forRequests]).toEqual(['one'])
    for (const each of configs(`  db: { servers: ["udp://db:1"] }`)) all.adopt(each)
    expect(tries(all, 'db')).toEqual(['tcp://db:1'])
    all.configure(others)
    expect(tries(all, 'one')).toEqual([B])
    expect([...all.former]).toEqual([])
  })
})

describe('a server that answers with errors', () => {
  const of = (health: string) => {
    const scene = upstreams(`  app: { servers: ["${A}", "${B}"], health: ${health} }`)
    const answers = (...statuses: number[]) => {
      for (const status of statuses) scene.all.recordOutcome(ended(A, undefined, status))
    }
    return { ...scene, answers }
  }

  it('gets no requests after so many in a row, and each other answer begins the count again', () => {
    const { all, down, up, answers } = of('{ errors: 3 }')
    answers(500, 503, 404, 500, 599)
    expect(down).toEqual([])
    answers(502)
    expect(down).toEqual([`app ${A}`])
    expect(all.out).toMatchObject([{ server: A, state: 'down', reason: 'status 502' }])
    const { forward } = all.get('app')
    expect([1, 2].map(() => forward.pick([])?.key)).toEqual([B, B])
    answers(200)
    expect([up, all.out]).toEqual([[`app ${A}`], []])
  })

  it('counts errors apart from failures, also if those never count', () => {
    const { all, answers } = of('{ failures: off, errors: 2 }')
    answers(500)
    all.recordOutcome(ended(A, 'upstream-closed', 502, true))
    expect(all.out).toEqual([])
    answers(500)
    expect(all.out).toMatchObject([{ server: A, state: 'down' }])
  })

  it('goes on by default, and answers of the proxy never count', () => {
    const one = of('{}')
    one.answers(500, 500, 500, 500, 500)
    expect(one.all.out).toEqual([])
    const two = of('{ errors: 1 }')
    two.all.recordOutcome(ended(A, 'queue-timeout', 503))
    expect(two.all.out).toEqual([])
  })
})
