import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { memoryFile } from '../../src/kernel/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { daemonStatus, launchDaemon, serviceWhere, startDaemon } from '../processes/daemon.js'
import { openFds } from '../processes/descriptors.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 200, heartbeat: 50, silence: 1_000, freeze: 500 }
const HELD = perLane(20, 60)
const MEMBERS = perLane(3, 6)
const QUIET_MS = 200

function limitedTo(limit: number) {
  return { wrap: ['prlimit', `--nofile=${limit}:${limit}`, '--'] }
}

/** The descriptors of the process, when none has come or gone for a while: one that it has for a moment would be one more later. */
async function settled(pid: number): Promise<number[]> {
  let fds: number[] = []
  let since = 0
  return await until('its descriptors stay as they are', () => {
    const now = readdirSync(`/proc/${pid}/fd`).map(Number)
    if (now.join() !== fds.join()) since = performance.now()
    fds = now
    return performance.now() - since >= QUIET_MS ? fds : null
  })
}

/** The process may open so many descriptors more than it has now; null: as many as it could. */
async function leave(pid: number, free: number | null): Promise<void> {
  const taken = new Set(free === null ? [] : await settled(pid))
  let limit = 0
  for (let left = free ?? 1_000; left > 0 || taken.has(limit); limit++) if (!taken.has(limit)) left--
  execFileSync('prlimit', ['--pid', `${pid}`, `--nofile=${limit}:`])
}

describe.runIf(NIGHTLY)('a member that follows, with few descriptors', () => {
  it.each([1, 2, 3])(
    '%d left: takes the newest state when it can, and says until then that it cannot',
    async free => {
      const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE })
      await startDaemon(scene, { upgrade: UPGRADE })
      const writer = await scene.serve({ routes: 5 })
      const follower = await scene.serve({ service: 'shop.1', options: { follow: 'shop' } })
      await leave(follower.pid, free)
      const next = await scene.serve({ routes: 0 })
      await writer.end()
      await next.order('put', { key: 'late', value: { item: 'late' } })
      // With one its connection has that, and it does not hear that there is something to take.
      if (free === 1) await setTimeout(1_000)
      else
        await until(
          'it says so',
          () => follower.output.includes('cannot be received: retrying'),
          10_000,
          () => follower.output,
        )
      await leave(follower.pid, null)
      await until(
        'it has it',
        async () => (await follower.order<{ item: string } | null>('get', { key: 'late' }))?.item === 'late',
        10_000,
        () => follower.output,
      )
    },
  )
})

describe('a daemon with few descriptors', () => {
  it.runIf(NIGHTLY)(
    'does not take over what it could not hold with members that come back: the one before goes on, and says the numbers',
    async () => {
      const scene = Scene.open({ hosting: 'daemon', routes: 5, upgrade: UPGRADE })
      const listeners = Array.from({ length: 5 }, (_, i) => ({
        name: `web-${i}`,
        spec: 'tcp://127.0.0.1:0',
        server: 'none' as const,
      }))
      const first = await startDaemon(scene, { upgrade: UPGRADE })
      const apps: App[] = []
      for (let n = 0; n < MEMBERS; n++) apps.push(await scene.serve({ service: `shop-${n}`, listeners }))
      for (const [n, app] of apps.entries())
        await serviceWhere(scene, 'it serves', ({ phase, pid }) => phase === 'idle' && pid === app.pid, {
          service: `shop-${n}`,
        })
      const needed = openFds(first.pid).length
      const failed = await launchDaemon(scene, { upgrade: UPGRADE, takeOver: true }, limitedTo(needed - 5))
      const { code, message } = await failed.says('failed')
      expect(code).toBe('ERR_FDB_NO_DESCRIPTORS')
      expect(message).toMatch(
        new RegExp(`needs \\d+ more for ${MEMBERS} returning members, .* may have ${needed - 5}:`),
      )
      expect((await daemonStatus(scene.control)).pid).toBe(first.pid)
      for (const app of apps) await app.order('put', { key: 'still', value: { item: 'here' } })
      const next = await launchDaemon(scene, { upgrade: UPGRADE, takeOver: true }, limitedTo(needed + 80))
      await next.says('listening')
      for (const [n, app] of apps.entries()) {
        await serviceWhere(scene, 'it is back', ({ phase, pid }) => phase === 'idle' && pid === app.pid, {
          service: `shop-${n}`,
        })
        await app.order('put', { key: 'there', value: { item: 'too' } })
        expect(app.output).not.toMatch(/ERR_FDB_INTERNAL|unfit/)
      }
      expect(next.output).not.toMatch(/EMFILE|ERR_FDB_ACCEPT/)
    },
  )

  it('takes over leases and claims where there is room for them and no more: it answers, and they end with their processes', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE })
    const first = await startDaemon(scene, { upgrade: UPGRADE })
    using client = await OperatorClient.connect(scene.control)
    const lives = spawn('sleep', ['600'], { stdio: 'ignore' })
    onTestFinished(() => void lives.kill('SIGKILL'))
    await once(lives, 'spawn')
    await client.status()
    const free = openFds(first.pid).length
    const pid = lives.pid!
    for (let i = 0; i < HELD; i++) {
      using fd = memoryFile('held', 'a memory file')
      await client.descriptors.put(`held-${i}`, fd, { lease: { pid } })
      const claimed = await client.descriptors.claim(`held-${i}`, { shared: true, while: { pid } })
      claimed.close()
    }
    // Each is a descriptor, a lease and a claim; and as many more as a daemon wants that knows of no members.
    const limit = limitedTo(free + 4 * HELD + 35)
    const next = await launchDaemon(scene, { upgrade: UPGRADE, takeOver: true }, limit)
    await next.says('listening')
    using operator = await OperatorClient.connect(scene.control)
    expect(await operator.status()).toMatchObject({ pid: next.pid, descriptors: HELD })
    lives.kill('SIGKILL')
    await until('all have gone with the process', async () => {
      const { descriptors } = (await operator.status()) as unknown as { descriptors: number }
      return descriptors === 0
    })
    expect(next.output).not.toContain('EMFILE')
  })

  it.runIf(NIGHTLY)(
    'keeps what the first member brought when that dies as soon as it accepts, with no descriptor left',
    async () => {
      const listeners = Array.from({ length: 5 }, (_, i) => ({
        name: `web-${i}`,
        spec: 'tcp://127.0.0.1:0',
        server: 'none' as const,
      }))
      const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE, listeners })
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const first = await scene.start({ traps: { 'member serving': 'SIGSTOP' } })
      await first.says('trapped')
      await leave(daemon.pid, 0)
      await first.kill()
      const pidfds = () => openFds(daemon.pid).filter(what => what === 'anon_inode:[pidfd]')
      await until('it is let go of', () => daemon.ended || pidfds().length === 0)
      expect(daemon.ended, daemon.output).toBe(false)
      await leave(daemon.pid, null)
      const names = listeners.map(({ name }) => name)
      const held = await serviceWhere(scene, 'nobody serves', ({ pid }) => pid === null)
      expect(held.listeners.map(({ name }) => name)).toEqual(names)
    },
  )

  it.runIf(NIGHTLY)(
    'gives a member the segment that it is told to write in, with no descriptor left for a copy',
    async () => {
      const options = { stateLimits: { renewBytes: 100_000 } }
      const scene = Scene.open({ hosting: 'daemon', upgrade: UPGRADE, options })
      const daemon = await startDaemon(scene, { upgrade: UPGRADE })
      const app = await scene.serve({ routes: 0 })
      const { epoch } = await serviceWhere(scene, 'it serves', ({ phase }) => phase === 'idle')
      await leave(daemon.pid, 1)
      try {
        await app.order('many', { count: 1_000 })
        await app.order('many', { count: 1_000 })
        await until('the daemon has made the next segment', () =>
          openFds(daemon.pid).includes(`memfd:fdb-state-${(epoch ?? 0) + 1}`),
        )
        await app.order('put', { key: 'next', value: { item: 'there' } })
      } finally {
        await leave(daemon.pid, null)
      }
      await serviceWhere(
        scene,
        'it goes on there',
        status => status.pid === app.pid && (status.epoch ?? 0) > (epoch ?? 0),
      )
      await app.order('put', { key: 'last', value: { item: 'there' } })
      expect(app.output).not.toContain('this process must write')
    },
  )
})
