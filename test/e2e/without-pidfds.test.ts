import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { serviceWhere, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const ENV = {
  FD_BROKER_ADDON: fileURLToPath(new URL('../fixtures/addon-without-pidfds.cjs', import.meta.url)),
}
const TIMES = { probation: 400, heartbeat: 50, silence: 500, ready: 800 }
const free = (scene: Scene) =>
  scene.statusWhere('nobody blocks', ({ blockedBy, phase }) => blockedBy.length === 0 && phase === 'idle')

const serve = (scene: Scene, config?: AppConfig): Promise<App> => scene.serve(config, { env: ENV })

describe('where there are no pidfds', () => {
  it('a successor that dies before it is ready is noticed, and blocks nobody', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await serve(scene)
    const doomed = await scene.start({ hang: 'sleep' }, { env: ENV })
    await doomed.says('takes orders')
    await doomed.kill()
    expect(await free(scene)).toMatchObject({
      pid: first.pid,
      lastFailure: { code: expect.stringMatching(/^ERR_FDB_SUCCESSOR_(LOST|DIED)$/) },
    })
    const next = await serve(scene)
    await first.end()
    expect((await scene.status()).pid).toBe(next.pid)
  })

  it('a successor that dies in probation brings the old one back, and blocks nobody', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await serve(scene)
    const doomed = await serve(scene)
    await first.says('retiring')
    await doomed.order('put', { key: 'last', value: { item: 'word' } })
    await doomed.kill()
    await first.says('reinstated')
    expect(await first.order('get', { key: 'last' })).toEqual({ item: 'word' })
    expect((await free(scene)).pid).toBe(first.pid)
  })

  it.runIf(NIGHTLY)('a successor inherits from an incumbent that dies', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, ready: 20_000 } })
    const first = await serve(scene, { traps: { 'holder probation': 'SIGKILL' } })
    const second = await serve(scene)
    await first.end()
    await scene.statusWhere(
      'it is its own master',
      ({ pid, phase }) => pid === second.pid && phase === 'idle',
    )
    const third = await serve(scene)
    await second.says('retiring')
    expect((await scene.status()).pid).toBe(third.pid)
  })

  it.runIf(NIGHTLY)('a member of a daemon that dies is followed by the next', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
    await startDaemon(scene, { upgrade: TIMES }, { env: ENV })
    const first = await serve(scene)
    await first.order('put', { key: 'last', value: { item: 'word' } })
    await first.kill()
    await serviceWhere(scene, 'nobody serves', ({ pid }) => pid === null)
    const next = await serve(scene)
    expect(await next.order('get', { key: 'last' })).toEqual({ item: 'word' })
  })

  it('--kill-stuck kills no process by its number: it says so, and the stopped one lives', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    await serve(scene)
    const stuck = await scene.start({ readyDelay: 1_500 }, { env: ENV })
    await stuck.says('takes orders')
    stuck.signal('SIGSTOP')
    await scene.statusWhere('it blocks upgrades', ({ blockedBy }) => blockedBy.includes(stuck.pid))
    using client = await OperatorClient.connect(scene.control)
    await expect(client.upgrade({ timeoutMs: 5_000, killStuck: true })).rejects.toMatchObject({
      code: 'ERR_FDB_STUCK',
      message: expect.stringMatching(new RegExp(`process ${stuck.pid} .*pidfd`)),
    })
    expect(stuck.ended).toBe(false)
    stuck.signal('SIGCONT')
    await stuck.failure()
  })
})
