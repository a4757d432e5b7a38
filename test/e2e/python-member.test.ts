import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { App, AppConfig } from '../processes/app.js'
import { serviceStatus, serviceWhere, startDaemon } from '../processes/daemon.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const APP = fileURLToPath(new URL('../fixtures/app.py', import.meta.url))
const CLIENT = fileURLToPath(new URL('../../clients/python', import.meta.url))
const UPGRADE = { probation: 300, heartbeat: 50 }
/** Somebody stands by for as long as the test takes. */
const WATCHED = { ...UPGRADE, probation: 60_000 }

async function open(upgrade: object = UPGRADE): Promise<{ scene: Scene; target: string; daemon: App }> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
  const scene = Scene.open({ hosting: 'daemon', upgrade: { ...UPGRADE, ...upgrade }, listeners })
  const daemon = await startDaemon(scene, { upgrade: UPGRADE })
  return { scene, target: `http://127.0.0.1:${port}`, daemon }
}

/** test/fixtures/app.py, started as app.mjs is. */
async function startPython(scene: Scene, config: AppConfig = {}): Promise<App> {
  const env = { PYTHONPATH: CLIENT, PYTHONDONTWRITEBYTECODE: '1', PYTHON_APP: APP }
  return await scene.start(config, { wrap: ['sh', '-c', 'exec python3 "$PYTHON_APP"'], env })
}

const python = async (scene: Scene, config?: AppConfig) => await (await startPython(scene, config)).serving()
const node = async (scene: Scene, config?: AppConfig) => await scene.serve(config)

/** So often it has come to serve. */
const served = (app: App): number => app.said.filter(({ msg }) => /-> serving /.test(msg ?? '')).length

describe.skipIf(!has('python3'))('a member in Python (skipped without python3)', () => {
  it('replaces Node and is replaced by it under load: no request fails, no write is lost', async () => {
    const { scene, target } = await open()
    let old = await node(scene)
    const load = await loadOn(target, { rate: 200, writes: 40, slow: 1 })
    for (const next of [python, python, node]) {
      await load.mark('upgrade')
      const app = await next(scene)
      await load.answeredBy(app.pid, 100)
      await old.end()
      expect(old.find('ended')).toMatchObject({ why: 'replaced' })
      expect(old.find('refused')).toBeUndefined()
      old = app
    }
    await load.stop()
    // With nobody who writes, each says the same of the state.
    const settled = () => serviceWhere(scene, 'the handoff is over', ({ phase }) => phase === 'idle')
    const before = (await settled()).state
    const py = await python(scene)
    expect(py.find('serving')!.position).toMatchObject({ sequence: before.sequence, digest: before.digest })
    await settled()
    const last = await node(scene)
    expect((await last.status()).state).toMatchObject({ sequence: before.sequence, digest: before.digest })
    await py.end()
    expect(py.find('retired')!.position).toMatchObject({ digest: before.digest })
  }, 60_000)

  it('is taken back when it dies in probation, and comes back when its successor does', async () => {
    const { scene, target } = await open(WATCHED)
    const first = await node(scene)
    const load = await loadOn(target, { rate: 100, writes: 0, slow: 0, streams: 0 })
    const dying = await python(scene)
    await load.answeredBy(dying.pid)
    await first.says('retiring')
    await dying.kill()
    await first.says('reinstated')
    await load.answeredBy(first.pid)

    const py = await python(scene)
    await load.answeredBy(py.pid)
    await first.kill()
    await serviceWhere(scene, 'nobody stands by', ({ phase }) => phase === 'idle')
    const successor = await node(scene)
    await load.answeredBy(successor.pid)
    await successor.kill()
    await until(
      'the member in Python serves again',
      () => served(py) === 2,
      20_000,
      () => py.output,
    )
    await load.answeredBy(py.pid)
    expect(await serviceStatus(scene)).toMatchObject({ pid: py.pid })
    // What was on its way to a process that was killed is lost with it. Nobody was refused, and no answer was wrong.
    await load.stop(['reset', 'dropped', 'truncated', 'raced'])
  }, 60_000)

  it('says why it does not take over, and the one before serves on', async () => {
    const { scene } = await open()
    const first = await node(scene)
    const refusing = await startPython(scene, { check: 'throw' })
    expect(await refusing.failure()).toMatchObject({ code: 'ERR_FDB_CHECK' })
    await refusing.end()
    const status = await serviceWhere(
      scene,
      'the failure is known',
      ({ lastFailure }) => lastFailure !== null,
    )
    expect(status).toMatchObject({ pid: first.pid, blockedBy: [], lastFailure: { code: 'ERR_FDB_CHECK' } })
    expect(first.find('retiring')).toBeUndefined()
  }, 60_000)

  it('serves on when the daemon is killed, and comes back to the next one with what it holds', async () => {
    const { scene, target, daemon } = await open()
    const py = await python(scene)
    const load = await loadOn(target, { rate: 100, writes: 20, slow: 0, streams: 0 })
    await daemon.kill()
    await startDaemon(scene, { upgrade: UPGRADE })
    await serviceWhere(scene, 'the member is back', ({ pid, phase }) => pid === py.pid && phase === 'idle')
    const next = await node(scene)
    await load.answeredBy(next.pid)
    await py.end()
    await load.stop()
  }, 60_000)
})
