import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 10_000 }

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

interface Failed {
  readonly code: number
  readonly stderr: string
}

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
  it.runIf(NIGHTLY)(
    'stands in the status of each version after it, with what keeps it, and in its log, until it ends',
    async () => {
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
    },
  )

  it.runIf(NIGHTLY)('stands in the status of a daemon', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    await startDaemon(scene, { upgrade: TIMES })
    const first = await scene.serve({ staysAlive: true })
    await scene.serve()
    const shown = { pid: first.pid, generation: 1, phase: 'retired', keptBy: { Timeout: 1 } }
    expect(await keptIn(scene, first.pid)).toMatchObject(shown)
  })

  it('ends where join() was given exitWhenRetired, and not before', async () => {
    const scene = Scene.open({ upgrade: TIMES, options: { exitWhenRetired: 100 } })
    const first = await scene.serve({ staysAlive: true })
    const second = await scene.serve({ staysAlive: true })
    await first.end()
    expect(first.story).toContain('ended')
    expect(first.output).toContain('1 Timeout kept it')
    expect(second.ended).toBe(false)
  })
})

describe('fd-broker stop of a process that does not end', () => {
  async function stopped(scene: Scene, ...args: readonly string[]): Promise<Failed> {
    const words = [CLI, 'stop', '--control', scene.control, ...args]
    return await promisify(execFile)(process.execPath, words).then(
      () => ({ code: 0, stderr: '' }),
      error => error as Failed,
    )
  }

  it('names what keeps it where its last connection has ended', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve({ staysAlive: true })
    const { code, stderr } = await stopped(scene, '--timeout', '500ms')
    expect(code).toBe(1)
    expect(stderr).toMatch(
      new RegExp(`process ${app.pid} was told .*: its last connection has ended, and 1 Timeout keeps it`),
    )
  })

  it.runIf(NIGHTLY)('says of one that is stopped that it does not answer', async () => {
    const scene = Scene.open({ upgrade: TIMES, traps: { 'member leaving': 'SIGSTOP' } })
    const app = await scene.serve()
    const { code, stderr } = await stopped(scene, '--timeout', '300ms')
    expect(code).toBe(1)
    expect(stderr).toMatch(new RegExp(`process ${app.pid} was told .*: it does not answer`))
    app.signal('SIGCONT')
    await app.end()
  })
})
