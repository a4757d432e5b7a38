import { describe, expect, it } from 'vitest'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 10_000 }

interface Older {
  readonly pid?: number
  readonly phase?: string
  readonly keptBy?: Readonly<Record<string, number>>
}

async function draining(scene: Scene): Promise<readonly Older[]> {
  const { draining, services = [] } = (await scene.status()) as never as {
    draining?: readonly Older[]
    services?: readonly { draining: readonly Older[] }[]
  }
  return draining ?? services.flatMap(service => service.draining)
}

/** The version of this pid as the status shows it, when that says what keeps it. */
async function keptIn(scene: Scene, pid: number): Promise<Older> {
  return await until(`the status names what keeps ${pid}`, async () =>
    (await draining(scene)).find(older => older.pid === pid && older.keptBy !== undefined),
  )
}

describe('a version that a timer keeps from its end after it has retired', () => {
  it('is in the status of each version after it, with what keeps it, and in its log, until it ends', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve({ staysAlive: true })
    await scene.serve()
    const shown = { pid: first.pid, phase: 'retired', connections: 0, keptBy: { Timeout: 1 } }
    expect(await keptIn(scene, first.pid)).toMatchObject(shown)
    expect(first.said).toContainEqual(
      expect.objectContaining({
        say: 'log',
        level: 'warn',
        message: expect.stringContaining(
          `process ${first.pid} has retired and does not end: 1 Timeout keeps it`,
        ),
      }),
    )
    await scene.serve()
    expect(await keptIn(scene, first.pid)).toMatchObject(shown)
    await first.kill()
    await until('it is not shown any more', async () => (await draining(scene)).length === 0)
  })

  it('is in the status of a daemon', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    await startDaemon(scene, { upgrade: TIMES })
    const first = await scene.serve({ staysAlive: true })
    await scene.serve()
    const shown = { pid: first.pid, generation: 1, phase: 'retired', keptBy: { Timeout: 1 } }
    expect(await keptIn(scene, first.pid)).toMatchObject(shown)
  })

  it('is ended where join() was given exitWhenRetired, and not before', async () => {
    const scene = Scene.open({ upgrade: TIMES, options: { exitWhenRetired: 100 } })
    const first = await scene.serve({ staysAlive: true })
    const second = await scene.serve({ staysAlive: true })
    await first.end()
    expect(first.story).toContain('ended')
    expect(first.output).toContain('1 Timeout kept it')
    expect(second.ended).toBe(false)
  })
})
