import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { loadOn } from '../processes/load.js'
import { type Orders, SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }
/** A request that a version had when it died, or that it answered wrongly before it was known to be sick, is lost with it. */
const ITS_OWN = ['dropped', 'raced', 'reset', 'truncated', 'wrong'] as const

interface Bad {
  readonly kind: string
  readonly orders?: Orders
  /** What is executed in place of the server. */
  readonly shell?: string
  /** In the failure that status shows. */
  readonly says: RegExp
  /** A child that accepts would answer what its version is asked. */
  readonly ready?: 'delay:1s'
  /** What makes it fail when it serves already: the version before is started again then. */
  readonly when?: '/crash' | '/sick' | '/hang'
}

const REFUSED: readonly Bad[] = [
  { kind: 'exits before it is ready', orders: { crash: 9 }, says: /ended with code 9 before it served/ },
  { kind: 'is never ready', orders: { fail: true }, says: /not ready within \d+ ms: GET .*503/ },
  { kind: 'listens on another port', orders: { elsewhere: true }, says: /not ready within \d+ ms/ },
  {
    kind: 'forks and exits',
    ready: 'delay:1s',
    orders: { leaves: { code: 1 } },
    says: /with code 1 before it served and left 1 processes behind/,
  },
  {
    kind: 'goes to the background',
    ready: 'delay:1s',
    orders: { leaves: { code: 0, detached: true } },
    says: /a program that goes to the background cannot be run/,
  },
  {
    kind: 'leaves a child that accepts and ignores TERM',
    ready: 'delay:1s',
    orders: { leaves: { code: 1, child: { deaf: true } } },
    says: /with code 1 before it served and left 1 processes behind/,
  },
  { kind: 'ignores TERM', orders: { fail: true, deaf: true }, says: /not ready within/ },
  {
    kind: 'has no memory',
    shell: `ulimit -c 0; ulimit -v 400000; exec ${process.execPath} ${SERVER}`,
    says: /before it served/,
  },
]

const FAILED: readonly Bad[] = [
  { kind: 'exits when it serves', when: '/crash', says: /served and ended with code 7 in its probation/ },
  { kind: 'answers 5xx when it serves', when: '/sick', says: /serves and is not healthy: GET .*503/ },
  { kind: 'hangs when it serves', when: '/hang', says: /serves and is not healthy: GET .*no answer within/ },
]

/** The cheap kinds, one of each way, and all of them by night. */
const refused = perLane(
  REFUSED.filter(({ orders }) => orders?.crash !== undefined || orders?.leaves?.code === 0),
  REFUSED,
)
const failed = perLane(
  FAILED.filter(({ when }) => when !== '/hang'),
  FAILED,
)

const SETTINGS = ['--ready', 'http:/health', '--ready-timeout', '1500ms', '--stop-timeout', '1s']

const command = (run: Supervised, { orders = {}, shell }: Bad) => [
  'env',
  `FDB_SUPERVISED=${run.orders(orders)}`,
  ...(shell === undefined ? [SERVER] : ['sh', '-c', shell]),
]

/** All who answer so many requests. */
async function answering(run: Supervised): Promise<Set<number>> {
  const pids = new Set<number>()
  for (let n = 0; n < 40; n++) pids.add((await run.whoami()).pid)
  return pids
}

const rests = (run: Supervised) =>
  until('nothing is left of it', async () => {
    const { draining, phase } = await run.status()
    return draining.length === 0 && phase === 'idle'
  })

describe('the version that serves', () => {
  it.each([undefined, 'delay:1s' as const])(
    'serves on, and alone, when the next one fails before it serves (--ready %s)',
    async ready => {
      const run = await Supervised.start([...SETTINGS, ...(ready === undefined ? [] : ['--ready', ready])])
      const { pid } = await run.whoami()
      const load = await loadOn(run.url, { ...FRESH, rate: 100 })
      for (const bad of refused.filter(each => each.ready === ready)) {
        const { code, stderr } = await run.upgrade('--', ...command(run, bad))
        expect({ kind: bad.kind, code, stderr }).toMatchObject({
          code: 1,
          stderr: expect.stringMatching(bad.says),
        })
        await rests(run)
        expect(await answering(run)).toEqual(new Set([pid]))
        expect((await run.status()).lastFailure.message).toMatch(bad.says)
      }
      // A child that accepts answers until it is ended with its version.
      await load.stop(ready === undefined ? [] : ITS_OWN)
    },
  )
})

describe('the version before', () => {
  it.each(failed)('serves again when the next one $kind, within its probation', async ({ when, says }) => {
    const run = await Supervised.start([...SETTINGS, '--health-timeout', '1s'])
    expect(
      await run.upgrade('--', ...command(run, { kind: '', says, orders: { release: 'bad' } })),
    ).toMatchObject({ code: 0 })
    await rests(run)
    const load = await loadOn(run.url, { ...FRESH, rate: 50, deadlineMs: 10_000 })
    const bad = await run.whoami()
    expect(bad.generation).toBe(2)
    await fetch(`${run.url}${when}`).catch(() => {})
    const third = await run.serving(3)
    await rests(run)
    expect(await answering(run)).toEqual(new Set([third]))
    const { lastFailure, generation, role } = await run.status()
    expect({ generation, role }).toEqual({ generation: 3, role: 'serving' })
    expect(lastFailure.message).toMatch(says)
    await load.answeredBy(third, 20)
    const { total } = await load.stop(ITS_OWN)
    expect(total.counts.refused).toBe(0)
    // Its command is not kept: what comes next is what served before.
    expect(await run.upgrade()).toMatchObject({ code: 0 })
    expect(await (await fetch(`${run.url}/release`, { headers: { connection: 'close' } })).text()).not.toBe(
      'bad',
    )
  })

  it('serves again each time that --restart always would loop on a bad one, by the link as it led', async () => {
    const run = await Supervised.prepare()
    const link = join(run.desk.folder, 'server')
    const release = (orders: Orders) => `#!/bin/sh\nFDB_SUPERVISED='${run.orders(orders)}' exec ${SERVER}\n`
    const [good, bad] = ['good', 'bad'].map(name => join(run.desk.folder, name)) as [string, string]
    writeFileSync(good, release({ release: 'good' }), { mode: 0o755 })
    writeFileSync(bad, release({ release: 'bad' }), { mode: 0o755 })
    const { rmSync, symlinkSync } = await import('node:fs')
    symlinkSync(good, link)
    await run.launch(['--ready', 'fd', '--restart', 'always', '--probation', '1m'], [link])
    await run.serving()
    rmSync(link)
    symlinkSync(bad, link)
    expect(await run.upgrade()).toMatchObject({ code: 0 })
    await rests(run)
    const answer = async () =>
      (await fetch(`${run.url}/release`, { headers: { connection: 'close' } })).text()
    expect(await answer()).toBe('bad')
    for (let generation = 3; generation < 5; generation++) {
      await fetch(`${run.url}/crash`).catch(() => {})
      await run.serving(generation)
      expect(await answer()).toBe('good')
    }
  })
})
