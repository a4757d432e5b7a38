import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { serviceWhere, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const ENV = {
  FD_BROKER_ADDON: fileURLToPath(new URL('../fixtures/addon-without-seals.cjs', import.meta.url)),
}
const TIMES = { probation: 60_000, heartbeat: 50, silence: 300, commit: 200 }

const serve = (scene: Scene, config?: AppConfig): Promise<App> => scene.serve(config, { env: ENV })
const put = (app: App, key: string) => app.order('put', { key, value: { item: key } })

/** Upgrades to a version that is stopped when it serves, and that changes the state when it goes on. Returns this version. */
async function upgradeToStopped(scene: Scene): Promise<App> {
  const first = await serve(scene)
  const second = await scene.start({ traps: { 'says serving': 'SIGSTOP' } }, { env: ENV })
  await first.end()
  second.signal('SIGCONT')
  await second.serving()
  await put(second, 'last')
  return second
}

describe('where memory cannot be sealed', () => {
  it('each upgrade is released at its commit, and the state goes on', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    let before = await serve(scene)
    await put(before, 'first')
    for (let generation = 2; generation <= 4; generation++) {
      const next = await serve(scene)
      await before.end()
      await put(next, `of ${generation}`)
      before = next
    }
    expect(await before.order('all')).toMatchObject(
      Object.fromEntries(['first', 'of 2', 'of 3', 'of 4'].map(key => [key, { item: key }])),
    )
    expect(await scene.statusWhere('nothing is on', ({ phase }) => phase === 'idle')).toMatchObject({
      pid: before.pid,
      generation: 4,
    })
  })

  it('a successor that is stopped when it serves is the only one that acknowledges when it goes on', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const second = await upgradeToStopped(scene)
    expect((await scene.status()).pid).toBe(second.pid)
  })

  it('a successor that is killed in its commit brings the old one back', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await serve(scene)
    const doomed = await scene.start({ traps: { 'member beginning': 'SIGKILL' } }, { env: ENV })
    await doomed.end()
    await put(first, 'after')
    expect((await scene.status()).pid).toBe(first.pid)
    const next = await serve(scene)
    await first.end()
    expect(await next.order('get', { key: 'after' })).toEqual({ item: 'after' })
  })

  it.runIf(NIGHTLY)(
    'members of a daemon: a successor that is stopped when it serves is not replaced by the one before',
    async () => {
      const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
      await startDaemon(scene, { upgrade: TIMES }, { env: ENV })
      const second = await upgradeToStopped(scene)
      await serviceWhere(scene, 'the second serves', ({ pid }) => pid === second.pid)
    },
  )
})
