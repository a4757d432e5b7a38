import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type HandoffTimes, join, type Member, serveDaemon } from '../../../src/index.js'
import { checkHealth, Heartbeat } from '../../../src/member/lifecycle/heartbeat.js'
import { withDeadline } from '../../../src/wire/pending.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

function controlPath(): string {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-beats-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return joinPath(folder, 'control.sock')
}

async function serving(
  control: string,
  upgrade: Partial<HandoffTimes>,
  hosting: 'embedded' | 'daemon' = 'embedded',
): Promise<Member> {
  const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout: 0 } })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  return member
}

describe('the intervals of a probation are those of the one who judges', () => {
  it('a successor that would beat less often than the incumbent’s patience beats as the incumbent says', async () => {
    const control = controlPath()
    const old = await serving(control, { probation: 400, heartbeat: 50, silence: 300 })
    const next = await serving(control, { heartbeat: 20_000, silence: 60_000 })
    await old.retired
    expect(old.status().lastFailure).toBeNull()
    expect(next.phase).toBe('serving')
  })

  it('a member of a daemon is as patient as the daemon’s own heartbeat demands', async () => {
    const control = controlPath()
    const daemon = await serveDaemon({
      control,
      upgrade: { heartbeat: 400, silence: 60_000, probation: 60_000 },
    })
    onTestFinished(() => daemon.close())
    const first = await serving(control, { heartbeat: 20, silence: 100, probation: 60_000 }, 'daemon')
    await serving(control, { heartbeat: 20, silence: 100 }, 'daemon')
    await until('the first stands by', () => first.phase === 'standby')
    const seen = new Set<string>()
    const look = setInterval(() => seen.add(first.phase), 5)
    await new Promise(resolve => setTimeout(resolve, 1_000))
    clearInterval(look)
    expect([...seen]).toEqual(['standby'])
  })

  for (const silence of [100, 200]) {
    it(`a silence of ${silence} ms is refused beside a heartbeat of 100 ms`, async () => {
      const upgrade = { heartbeat: 100, silence }
      const refusal = {
        code: 'ERR_FDB_OPTION',
        message: expect.stringMatching(/upgrade\.silence.*heartbeat.*100/),
        details: { option: 'upgrade.silence' },
      }
      await expect(join({ service: 'shop', control: controlPath(), upgrade })).rejects.toMatchObject(refusal)
      await expect(serveDaemon({ control: controlPath(), upgrade })).rejects.toMatchObject(refusal)
    })
  }

  it('a daemon’s limits are looked at like a member’s', async () => {
    const upgrade = { freeze: -1 }
    await expect(serveDaemon({ control: controlPath(), upgrade })).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      details: { option: 'upgrade.freeze' },
    })
  })
})

describe('limits that a member gives hold in daemon hosting too', () => {
  it('its probation, as the one that stands by', async () => {
    const control = controlPath()
    const daemon = await serveDaemon({ control, upgrade: { heartbeat: 20, probation: 60_000 } })
    onTestFinished(() => daemon.close())
    const first = await serving(control, { probation: 100 }, 'daemon')
    const second = await serving(control, { probation: 60_000 }, 'daemon')
    expect(await first.retired).toBe('replaced')
    await serving(control, {}, 'daemon')
    await until('the second stands by', () => second.phase === 'standby')
    // The next one waits for as long as the second has asked for.
    await expect(join({ service: 'shop', control, hosting: 'daemon' })).rejects.toMatchObject({
      code: 'ERR_FDB_BUSY',
      message: expect.stringContaining('probation'),
    })
  })
})

describe('a process that was kept from listening', () => {
  it('within a heartbeat, by its health hook or by a stop, does not take that for silence of its holder', async () => {
    const silenceMs = 100
    let heardAt = performance.now()
    let blockedMs = 0
    const told: string[] = []
    const heartbeat = new Heartbeat({
      everyMs: () => 20,
      link: () => ({
        open: true,
        beat: () => {},
        get idleMs() {
          return performance.now() - heardAt
        },
      }),
      health: () => {
        const end = performance.now() + blockedMs
        while (performance.now() < end);
        return { healthy: true }
      },
      report: () => ({}),
      silenceMs: () => silenceMs,
      events: { before: () => {}, onSilent: () => void told.push('silent'), onHeard: () => {} },
    })
    heartbeat.start()
    onTestFinished(() => heartbeat.stop())
    const longAwake = performance.now() + 2 * silenceMs
    await until('it has been awake for longer than a silence', () => {
      heardAt = performance.now()
      return heardAt > longAwake
    })
    told.length = 0
    blockedMs = 2 * silenceMs
    heartbeat.beat()
    expect(told).toEqual([])
  })

  it('hears what came meanwhile before it says that it came too late', async () => {
    const answer = new Promise<string>(resolve => {
      // Comes from the kernel while this process is busy.
      const child = joinPath(controlPath(), '..')
      void import('node:fs').then(({ readdir }) => readdir(child, () => resolve('here')))
    })
    await new Promise(resolve => setImmediate(resolve))
    const waited = withDeadline(answer, 50, 'the answer')
    const end = performance.now() + 200
    while (performance.now() < end);
    expect(await waited).toBe('here')
  })
})

describe('the answer of a health hook', () => {
  it('a promise or nothing counts as unhealthy, with the reason', () => {
    const answer = (value: unknown) => checkHealth(untyped(() => value))
    expect(answer(Promise.resolve(true))).toEqual({
      healthy: false,
      unwell: 'its health hook returned a promise: it must answer at once',
    })
    expect(answer(Promise.reject(new Error('the database is gone')))).toMatchObject({ healthy: false })
    expect(answer(undefined)).toEqual({ healthy: false, unwell: 'its health hook returned undefined' })
    expect(answer(1)).toEqual({ healthy: true })
    expect(answer(0)).toEqual({ healthy: false })
  })
})
