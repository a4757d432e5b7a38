import { describe, expect, it } from 'vitest'
import type { Logger } from '../../src/index.js'
import type { HealthCheck } from '../../src/probing/health-check.js'
import type { HealthConfig } from '../../src/proxy/config/health.js'
import { HealthChecker } from '../../src/proxy/health/health.js'
import { PollingProbe } from '../../src/versions/version-probe.js'
import fc from '../lanes/generated.js'
import { until } from '../processes/until.js'

/** The possible answers to a question: `never` ends with its time. */
type Come = 'yes' | 'no' | 'rejects' | 'never'

const comes = fc.array(fc.constantFrom<Come[]>('yes', 'yes', 'yes', 'yes', 'yes', 'no', 'rejects', 'never'), {
  maxLength: 12,
})
const passes = fc.integer({ min: 1, max: 3 })
/** As often as it takes a few milliseconds each. */
const RUNS = { numRuns: 25 }
/** An answer that has come at once is not late, however busy the machine is. */
const PACE = { interval: 0, timeout: 2 }
const LONG_MS = 20_000

/** Asked in this order; then as `last` says. */
function asks(order: readonly Come[], last: Come) {
  const asked: Come[] = []
  const question: HealthCheck = {
    name: 'it',
    run() {
      const come = order[asked.length] ?? last
      asked.push(come)
      if (come === 'never') return new Promise(() => {})
      return come === 'rejects'
        ? Promise.reject(new Error('refused'))
        : Promise.resolve(come === 'yes' ? null : 'no')
    },
  }
  return { question, asked }
}

/** How many questions it takes until so many in a row were answered with yes; `order` is followed by yes alone. */
function untilReady(order: readonly Come[], inARow: number): number {
  for (let asked = 0, row = 0; ; asked++) {
    if (row === inARow) return asked
    row = (order[asked] ?? 'yes') === 'yes' ? row + 1 : 0
  }
}

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} }

function health(question: HealthCheck, config: Partial<HealthConfig>): HealthChecker {
  const rest = { http: null, tcp: null, command: null, host: null, listener: null, passes: 1 }
  return new HealthChecker(
    { ...rest, ...PACE, within: LONG_MS, ...config },
    { check: question, socket: null },
    SILENT,
  )
}

describe('a version that is asked again and again', () => {
  it('becomes ready after so many answers in a row, and fails with the first that is none after that', async () => {
    await fc.assert(
      fc.asyncProperty(comes, passes, async (order, inARow) => {
        const { question, asked } = asks([...order, ...Array(inARow).fill('yes')], 'no')
        const told: string[] = []
        const probe = new PollingProbe(() => question, { ...PACE, passes: inARow })
        probe.start(1, {
          ready: () => told.push(`ready after ${asked.length}`),
          failed: why => told.push(why),
          recovered: () => {},
          statusText: () => {},
          mainProcess: () => {},
        })
        await until('it has failed', () => told.length === 2, LONG_MS)
        expect(told[0]).toBe(`ready after ${untilReady(order, inARow)}`)
        const last = asked.at(-1)
        expect(told[1]).toBe(
          last === 'no' ? 'it: no' : last === 'rejects' ? 'it: refused' : 'it: no answer within 2 ms',
        )
        const { length } = asked
        await new Promise(resolve => setTimeout(resolve, 3))
        expect([told.length, asked.length]).toEqual([2, length])
      }),
      RUNS,
    )
  })

  it('answers on when it serves, and each change is told once', async () => {
    await fc.assert(
      fc.asyncProperty(comes, async order => {
        const { question } = asks(['yes', ...order, 'no', 'yes'], 'yes')
        const told: string[] = []
        const probe = new PollingProbe(() => question, { ...PACE, passes: 1 })
        probe.start(1, {
          ready: () => probe.markServing(),
          failed: () => told.push('failed'),
          recovered: () => told.push('recovered'),
          statusText: () => {},
          mainProcess: () => {},
        })
        const all = [...order, 'no', 'yes']
        const changes = all.filter((come, i) => (come === 'yes') !== ((all[i - 1] ?? 'yes') === 'yes'))
        await until('all is told', () => told.length >= changes.length, LONG_MS)
        probe.stop()
        expect(told).toEqual(changes.map((_, i) => (i % 2 === 0 ? 'failed' : 'recovered')))
      }),
      RUNS,
    )
  })

  it('tells nothing when the questions have ended', async () => {
    const probe = new PollingProbe(
      () => ({ name: 'it', run: () => new Promise(resolve => setTimeout(() => resolve(null), 5)) }),
      { ...PACE, timeout: LONG_MS, passes: 1 },
    )
    let told = 0
    probe.start(1, {
      ready: () => told++,
      failed: () => told++,
      recovered: () => {},
      statusText: () => {},
      mainProcess: () => {},
    })
    probe.stop()
    await new Promise(resolve => setTimeout(resolve, 20))
    expect(told).toBe(0)
  })
})

describe('a version of the proxy that proves itself', () => {
  it('passes by the first so many good answers in a row', async () => {
    await fc.assert(
      fc.asyncProperty(comes, passes, async (order, inARow) => {
        const { question, asked } = asks(order, 'yes')
        using proof = health(question, { passes: inARow })
        await proof.waitUntilHealthy(new AbortController().signal, () => true)
        expect(asked.length).toBe(untilReady(order, inARow))
        expect(proof.report).toBe(true)
      }),
      RUNS,
    )
  })

  it.each<[Come, RegExp]>([
    ['no', /\d+ checks within 20 ms, but not 1 successful in a row: it: no$/],
    ['rejects', /: it: refused$/],
    ['never', /: it: no answer within 2 ms$/],
  ])('fails in time when the answer is always: %s', async (come, message) => {
    using proof = health(asks([], come).question, { within: 20 })
    await expect(proof.waitUntilHealthy(new AbortController().signal, () => true)).rejects.toMatchObject({
      code: 'ERR_FDB_UNHEALTHY',
      message: expect.stringMatching(message),
    })
  })

  it('becomes ready at once when no other would serve, or no client waits for it', async () => {
    using alone = health(asks([], 'no').question, {})
    await alone.waitUntilHealthy(new AbortController().signal, () => false)
    using unwanted = health(asks([], 'no').question, {})
    const over = new AbortController()
    const proving = unwanted.waitUntilHealthy(over.signal, () => true)
    over.abort(new Error('over'))
    await expect(proving).rejects.toThrow('over')
  })

  it('says in probation what it was answered last, as long as anybody wants to know', async () => {
    await fc.assert(
      fc.asyncProperty(comes, async order => {
        let settled = 0
        const { question, asked } = asks(order, 'yes')
        using proof = health(question, {})
        const words: (true | string)[] = []
        proof.watch(() => {
          if (settled++ > 0) words.push(proof.report)
          return settled <= order.length + 1
        })
        await until('nobody wants to know', () => settled > order.length + 1, LONG_MS)
        const said = { yes: true, no: 'it: no', rejects: 'it: refused', never: 'it: no answer within 2 ms' }
        expect(words).toEqual([...order, 'yes' as const].map(come => said[come]))
        expect(proof.report).toBe(true)
        expect(asked.length).toBe(order.length + 2)
      }),
      RUNS,
    )
  })
})
