import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK, readProcessReply } from '../../src/operator/service-commands.js'
import type { StatusAnswer } from '../../src/operator/status-report.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { pause } from '../processes/until.js'

const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))
const TIMES = { probation: 60_000, heartbeat: 50, silence: 5_000 }
/** The successor serves and knows it; the holder has not heard it. */
const KNOWS: AppConfig = { traps: { 'member serving': 'SIGSTOP' } }
/** For a question to arrive. */
const MEANWHILE_MS = 300

async function open(hosting: 'embedded' | 'daemon'): Promise<Scene> {
  const scene = Scene.open({ hosting, upgrade: TIMES })
  if (hosting === 'daemon') await startDaemon(scene, { upgrade: TIMES })
  return scene
}

/** Stopped by itself. */
async function trapped(scene: Scene, config: AppConfig): Promise<App> {
  const app = await scene.start(config)
  await app.says('trapped')
  return app
}

/** Asks while the member is stopped, and lets it go on. */
async function meanwhile<T>(scene: Scene, app: App, ask: (client: OperatorClient) => Promise<T>): Promise<T> {
  using client = await OperatorClient.connect(scene.control)
  const answer = ask(client)
  answer.catch(() => {})
  await pause(MEANWHILE_MS)
  app.signal('SIGCONT')
  return await answer
}

function only(answer: StatusAnswer) {
  return 'services' in answer ? answer.services[0] : answer
}

describe.each(['embedded', 'daemon'] as const)(
  'an operator who knows that a version serves (%s)',
  hosting => {
    it.runIf(NIGHTLY || hosting === 'daemon')(
      'before whoever decides has heard it has the status of that version',
      async () => {
        const scene = await open(hosting)
        await scene.serve()
        const second = await trapped(scene, KNOWS)
        const answer = await meanwhile(scene, second, client => client.status())
        expect(only(answer)).toMatchObject({ pid: second.pid, generation: 2 })
      },
    )

    it.runIf(NIGHTLY || hosting === 'embedded')('has that one upgraded', async () => {
      const scene = await open(hosting)
      // The next one can join at the first sign of health.
      await scene.serve({ upgrade: { ...TIMES, probation: 0 } })
      const second = await trapped(scene, KNOWS)
      const third = JSON.stringify({ ...second.config, name: 'third', traps: {} })
      const argv = ['env', `FDB_APP=${third}`, process.execPath, APP]
      const upgraded = await meanwhile(scene, second, client => client.upgrade({ argv, timeoutMs: 15_000 }))
      expect(upgraded).toMatchObject({ generation: 3 })
    })

    it.runIf(NIGHTLY || hosting === 'embedded')('has that one rolled back', async () => {
      const scene = await open(hosting)
      const first = await scene.serve()
      const second = await trapped(scene, KNOWS)
      const reply = await meanwhile(scene, second, client => client.command(ROLLBACK, ''))
      expect(readProcessReply(reply)).toEqual({ pid: second.pid, generation: 2 })
      await first.says('reinstated')
    })

    it.runIf(NIGHTLY || hosting === 'daemon')(
      'gets the status also beside a version that is stopped just then',
      async () => {
        const scene = await open(hosting)
        const first = await scene.serve()
        await trapped(scene, KNOWS)
        using client = await OperatorClient.connect(scene.control)
        expect(only(await client.status())).toMatchObject({ pid: first.pid, generation: 1 })
      },
    )
  },
)

describe('an operator who is connected to the version before', () => {
  it('reaches the one that serves by then, when it asks in the commit', async () => {
    const scene = await open('embedded')
    const first = await scene.serve()
    using client = await OperatorClient.connect(scene.control)
    await client.status()
    const second = await trapped(scene, KNOWS)
    const answer = client.command(ROLLBACK, '')
    answer.catch(() => {})
    await pause(MEANWHILE_MS)
    second.signal('SIGCONT')
    await expect(answer).rejects.toMatchObject({ code: 'ERR_FDB_FENCED', retryable: true })
    expect(await first.order('phase')).toBe('standby')
  })
})

describe('an operator of a daemon that was started again', () => {
  async function restarted(): Promise<{ scene: Scene; member: App }> {
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const member = await scene.serve()
    member.signal('SIGSTOP')
    await daemon.kill()
    await startDaemon(scene, { upgrade: TIMES })
    return { scene, member }
  }

  it('has its status at once, which tells that it waits', async () => {
    const { scene } = await restarted()
    using client = await OperatorClient.connect(scene.control)
    expect(only(await client.status())).toMatchObject({ phase: 'rebuilding', pid: null })
  })

  it('has the member that comes back upgraded', async () => {
    const { scene, member } = await restarted()
    const upgraded = await meanwhile(scene, member, client => client.upgrade({ timeoutMs: 15_000 }))
    expect(upgraded).toMatchObject({ generation: 2 })
  })

  it.runIf(NIGHTLY)('learns which process is awaited, where that one does not come back', async () => {
    const { scene, member } = await restarted()
    using client = await OperatorClient.connect(scene.control)
    await expect(client.upgrade({ timeoutMs: 500 })).rejects.toMatchObject({
      code: 'ERR_FDB_BUSY',
      message: expect.stringContaining(`waits for process ${member.pid}`),
    })
  })
})

describe('a process that joins a daemon', () => {
  it.runIf(NIGHTLY)('in the commit of the one that serves waits for its outcome', async () => {
    const scene = await open('daemon')
    const first = await trapped(scene, KNOWS)
    const second = await scene.start()
    await pause(MEANWHILE_MS)
    first.signal('SIGCONT')
    await second.serving()
    expect(second.find('joined')).toMatchObject({ generation: 2 })
  })

  it.runIf(NIGHTLY)('waits, at a restarted daemon, for the members that come back', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const first = await scene.serve()
    first.signal('SIGSTOP')
    await daemon.kill()
    await startDaemon(scene, { upgrade: TIMES })
    const second = await scene.start()
    await pause(MEANWHILE_MS)
    first.signal('SIGCONT')
    await second.serving()
    expect(second.find('joined')).toMatchObject({ generation: 2 })
  })
})

describe('the process that decides', () => {
  it('hears that a version serves before the application does (daemon)', async () => {
    const scene = await open('daemon')
    const app = await trapped(scene, { traps: { 'says serving': 'SIGSTOP' } })
    using client = await OperatorClient.connect(scene.control)
    expect(only(await client.status())).toMatchObject({ pid: app.pid, phase: 'idle' })
  })

  it('hears that a version serves before the application does (embedded)', async () => {
    const scene = await open('embedded')
    const first = await scene.serve()
    await trapped(scene, { traps: { 'says serving': 'SIGSTOP' } })
    await first.says('retiring', 3_000)
  })
})
