import { rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import {
  BAD_VERSIONS,
  type BadVersion,
  commandOf,
  countedBy,
  processesWith,
} from '../processes/bad-versions.js'
import { loadOn } from '../processes/load.js'
import { type Orders, SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const PER_SECOND = 100
/** Answers of so many seconds. */
const LATER = perLane(1, 2) * PER_SECOND
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0, rate: PER_SECOND }
const SETTINGS = ['--health-timeout', '2s', '--stop-timeout', '5s', '--probation', '1m']

/** The gate has one kind; the night has all. */
const kinds = perLane(
  BAD_VERSIONS.filter(({ kind }) => /exits after/.test(kind)),
  BAD_VERSIONS,
)

/** The pids that answer requests which begin now. */
async function answering(run: Supervised): Promise<Set<number>> {
  const pids = new Set<number>()
  for (let n = 0; n < 40; n++) pids.add((await run.whoami()).pid)
  return pids
}

const rests = (run: Supervised) =>
  until('nothing is left of it', async () => {
    const { draining, phase, role } = await run.status()
    return draining.length === 0 && phase === 'idle' && role === 'serving'
  })

/** The version never serves: the upgrade fails. Returns the pid of the version that serves on. */
async function refused(run: Supervised, bad: BadVersion): Promise<number> {
  const { pid } = await run.whoami()
  // A version that fails by itself has the time that it needs for that.
  const within = bad.code === 'ERR_FDB_DEADLINE' ? ['--timeout', '1500ms'] : []
  const { code, stderr } = await run.upgrade(...within, '--', ...commandOf(run, bad))
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(bad.says) })
  expect(stderr).toContain(bad.code)
  return pid
}

/** The version serves as this generation and fails. Returns the pid of the previous version, which is started again. */
async function fallen(run: Supervised, bad: BadVersion, generation: number): Promise<number> {
  expect(await run.upgrade('--', ...commandOf(run, bad))).toMatchObject({ code: 0 })
  const pid = await run.serving(generation)
  if (bad.fault === 'KILL') process.kill(pid, 'SIGKILL')
  else if (bad.fault !== 'by itself') {
    // Until then the version that was replaced may take the request.
    await rests(run)
    await fetch(`${run.url}${bad.fault}`, { headers: { connection: 'close' } }).catch(() => {})
  }
  const again = await run.serving(generation + 1)
  await rests(run)
  return again
}

/** In the words of the status, and in its fields. `falls`: versions that have failed in probation. */
async function tells(run: Supervised, bad: BadVersion, falls: number): Promise<void> {
  const { code, stdout } = await run.sandbox.run('status', '--control', run.control)
  const generation = 1 + 2 * falls
  const lines = [
    'role +serving',
    `generation +${generation}`,
    `last failure +${bad.code} in phase ${falls > 0 ? 'serving' : 'starting'} at`,
    ...(falls > 0
      ? [`serves again +generation ${generation - 2}, started again as generation ${generation}`]
      : []),
    ...(falls > 1 ? [`crash loop +${falls} ends or failures in a row`] : []),
  ]
  for (const line of lines) expect(stdout).toMatch(new RegExp(`^${line}`, 'm'))
  expect(stdout).toMatch(bad.says)
  expect(code).toBe(falls > 1 ? 1 : 0)
  const message = expect.stringMatching(bad.says)
  expect(await run.status()).toMatchObject({
    ...{ generation, role: 'serving', phase: 'idle', draining: [] },
    lastFailure: { code: bad.code, old: false, message },
    supervisor: { again: falls > 0 ? generation - 2 : null, loops: falls > 1 },
  })
}

/** The losses of clients with a bad version, in the words of the load. */
const LOST: Record<BadVersion['seen'], Parameters<Awaited<ReturnType<typeof loadOn>>['stop']>[0]> = {
  nothing: [],
  open: ['reset', 'truncated'],
  wrong: ['wrong'],
}

describe('under load the version that served', () => {
  it.each(kinds)('serves, alone and in the words of status, when the next one $kind', async bad => {
    const { ready = 'http:/health', restart = 'never' } = bad
    const run = await Supervised.start([...SETTINGS, '--ready', ready, '--restart', restart])
    const load = await loadOn(run.url, FRESH)
    const falls = bad.fault === undefined ? 0 : restart === 'always' ? 2 : 1
    let pid = 0
    if (falls === 0) pid = await refused(run, bad)
    for (let n = 1; n <= falls; n++) pid = await fallen(run, bad, 2 * n)
    // Requests that begin after the verdict.
    expect(await answering(run)).toEqual(new Set([pid]))
    await tells(run, bad, falls)
    for (let n = 1; n <= Math.max(1, falls); n++)
      expect(processesWith(`FD_BROKER_VERSION_OF=${run.pid}.${2 * n}.`)).toEqual([])
    await load.answeredBy(pid, 20)
    await load.mark('after')
    await load.answeredBy(pid, LATER)
    expect(await answering(run)).toEqual(new Set([pid]))
    const { total, phases } = await load.stop(LOST[bad.seen])
    const { name, lost, generations } = phases.at(-1)!
    expect({ name, lost }).toEqual({ name: 'after', lost: 0 })
    expect(Object.keys(generations)).toEqual([expect.stringMatching(new RegExp(`/${pid}$`))])
    const { open, processes, wrong } = countedBy(run)
    // A process may die between the accept and its count.
    if (bad.seen === 'open') expect(total.lost).toBeLessThanOrEqual(open + processes)
    if (bad.seen === 'wrong') expect(total.lost).toBe(wrong)
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    await expect(fetch(run.url)).rejects.toThrow()
    expect(processesWith(run.said)).toEqual([])
  })
})

describe('the version before', () => {
  it('serves again each time that --restart always would loop on a bad one, by the link as it led', async () => {
    const run = await Supervised.prepare()
    const link = join(run.sandbox.folder, 'server')
    const release = (orders: Orders) => `#!/bin/sh\nFDB_SUPERVISED='${run.orders(orders)}' exec ${SERVER}\n`
    const [good, bad] = ['good', 'bad'].map(name => join(run.sandbox.folder, name)) as [string, string]
    writeFileSync(good, release({ release: 'good' }), { mode: 0o755 })
    writeFileSync(bad, release({ release: 'bad' }), { mode: 0o755 })
    symlinkSync(good, link)
    await run.launch(['--ready', 'fd', '--restart', 'always', '--probation', '1m'], [link])
    await run.serving()
    rmSync(link)
    symlinkSync(bad, link)
    await run.upgraded()
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
