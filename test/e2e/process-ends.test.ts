import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { startDaemon } from '../processes/daemon.js'
import { ask } from '../processes/operator.js'
import { hello, RawPeer } from '../processes/raw-peer.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { workOf } from '../processes/worked.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

function rssMiB({ pid }: { pid: number }): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0) / 1024
}

async function waitingPeers(control: string): Promise<RawPeer[]> {
  const operator = await RawPeer.connect(control)
  operator.say(hello('OPERATE'), { statusRequest: {} })
  await until('the operator has its answer', () => operator.heard.some(({ status }) => status))
  const reporter = await RawPeer.connect(control)
  reporter.say(hello('DRAINING'))
  return [operator, reporter, await RawPeer.connect(control)]
}

describe('every process ends', () => {
  it.runIf(NIGHTLY)(
    'a server that was closed, with operators, reporters and silent ones connected',
    async () => {
      const scene = Scene.open({ upgrade: TIMES })
      const app = await scene.serve()
      const connected = await waitingPeers(scene.control)
      await app.order('close').catch(() => {})
      await app.end(4_000)
      for (const peer of connected) peer.leave()
    },
  )

  it('a daemon that was closed, with operators and silent ones connected', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    await scene.serve()
    const connected = await waitingPeers(scene.control)
    daemon.signal('SIGTERM')
    await daemon.end(4_000)
    for (const peer of connected) peer.leave()
  })
})

describe('an elder that is closed in probation and lives on as a process', () => {
  it('does not keep the next version from taking over', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, heartbeat: 50 } })
    const first = await scene.serve({ staysAlive: true })
    await scene.serve()
    // The socket for orders closes with it, perhaps before the answer.
    await first.order('close').catch(() => {})
    await first.says('ended')
    expect(first.ended).toBe(false)
    const third = await scene.serve()
    expect((await scene.status()).pid).toBe(third.pid)
  })
})

describe('an operator that asks and does not read', () => {
  it.runIf(NIGHTLY)('costs bounded memory, and nobody else waits', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    await scene.status()
    const before = rssMiB(app)
    const flood = await RawPeer.connect(scene.control)
    flood.pause()
    flood.say(hello('OPERATE'))
    const body = Buffer.alloc(1024 * 1024)
    for (let request = 0; request < 48; request++) flood.say({ command: { name: 'none', body, request } })
    for (let i = 0; i < 20_000; i++) flood.say({ statusRequest: {} })
    for (let i = 0; i < 20; i++) {
      const worked = workOf(app.pid)
      await scene.status()
      expect(worked()).toBeLessThan(1_000)
    }
    expect(rssMiB(app) - before).toBeLessThan(60)
    flood.leave()
    expect((await scene.status()).pid).toBe(app.pid)
  })
})

describe('an upgrade that an operator asks for', () => {
  it('may have a limit longer than a timer can wait', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    const result = await ask(
      scene.control,
      { upgradeRequest: { timeoutMs: 2 ** 32 - 1 } },
      envelope => envelope.result ?? undefined,
    )
    expect(result).toMatchObject({ ok: true, generation: 2 })
    await app.end()
    expect(app.output).not.toContain('TimeoutOverflowWarning')
  })

  it.runIf(NIGHTLY)('of a member that is stopped ends at its limit, and can be asked for again', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    await startDaemon(scene, { upgrade: TIMES })
    const member = await scene.serve()
    const outcome = () =>
      ask(
        scene.control,
        { upgradeRequest: { timeoutMs: 100 } },
        envelope => envelope.result ?? undefined,
        15_000,
      )
    member.signal('SIGSTOP')
    const first = outcome()
    await expect(first).resolves.toMatchObject({ ok: false, code: 'ERR_FDB_DEADLINE' })
    const second = outcome()
    member.signal('SIGCONT')
    // The daemon asks it again; it may still be at the first one.
    expect((await second).message).not.toContain('cannot take a request now')
  })
})
