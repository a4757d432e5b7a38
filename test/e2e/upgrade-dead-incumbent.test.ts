import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask, whoServes } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'
import { socketsAt } from '../processes/sockets.js'
import { until } from '../processes/until.js'

const PHASES = [
  'holder offering',
  'member frozen',
  'holder preparing',
  'holder committing',
  'holder probation',
] as const

const TIMES = { probation: 60_000, heartbeat: 50, silence: 1_000, ready: 5_000 }

async function stage(config: AppConfig = {}): Promise<{ scene: Scene; url: string; first: App }> {
  const port = await freePort()
  const scene = Scene.open({ upgrade: TIMES, listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }] })
  const first = await scene.serve(config)
  await first.order('put', { key: 'early', value: { item: 'acknowledged' } })
  return { scene, url: `http://127.0.0.1:${port}`, first }
}

/** The heir serves, has everything, can write, and can be replaced in turn. */
async function expectHeir(scene: Scene, url: string, heir: App, keys: readonly string[]): Promise<void> {
  await heir.serving()
  expect(await whoServes(url)).toBe(heir.pid)
  for (const key of keys) expect(await heir.order('get', { key })).toEqual({ item: 'acknowledged' })
  await heir.order('put', { key: 'by the heir', value: { item: 'acknowledged' } })
  await scene.statusWhere(
    'the heir decides for itself',
    ({ pid, role, phase, blockedBy }) =>
      pid === heir.pid && role === 'serving' && phase === 'idle' && blockedBy.length === 0,
  )
  const next = await scene.serve({ upgrade: { ...TIMES, probation: 0 } })
  for (const key of [...keys, 'by the heir']) {
    expect(await next.order('get', { key })).toEqual({ item: 'acknowledged' })
  }
  expect((await next.status()).state.digest).toBe((await heir.status()).state.digest)
  expect(await whoServes(url)).toBe(next.pid)
}

describe('an incumbent that is killed', () => {
  it('while its successor gets ready: that one serves, with what was written after the offer too', async () => {
    const { scene, url, first } = await stage()
    const heir = await scene.start({ readyDelay: 500 })
    await heir.says('listener')
    await first.order('put', { key: 'after the offer', value: { item: 'acknowledged' } })
    await first.kill()
    await expectHeir(scene, url, heir, ['early', 'after the offer'])
  })

  it('before it has answered: whoever waits for it becomes the first of a new service', async () => {
    const { scene, url, first } = await stage()
    first.signal('SIGSTOP')
    const heir = await scene.start()
    await until('it waits for the Welcome', () => socketsAt(scene.control) === 2)
    await first.kill()
    await heir.serving()
    expect(heir.find('joined')).toMatchObject({ first: true, generation: 1 })
    expect(await whoServes(url)).toBe(heir.pid)
  })

  for (const phase of perLane<readonly (typeof PHASES)[number][]>(
    ['member frozen', 'holder committing'],
    PHASES,
  )) {
    it(`in phase ${phase}: the successor serves with everything that was acknowledged`, async () => {
      const { scene, url, first } = await stage({ traps: { [phase]: 'SIGKILL' } })
      const heir = await scene.start()
      await first.end()
      await expectHeir(scene, url, heir, ['early'])
    })
  }

  it.runIf(NIGHTLY)('with the word of its successor unread that it is ready: that one serves', async () => {
    const { scene, url, first } = await stage()
    const heir = await scene.start({ readyDelay: 300 })
    await heir.says('listener')
    first.signal('SIGSTOP')
    await until('it is ready', async () => (await heir.order('phase')) === 'ready')
    await first.kill()
    await expectHeir(scene, url, heir, ['early'])
  })

  it('in probation, after its successor has acknowledged changes: nothing of them is lost', async () => {
    const { scene, url, first } = await stage()
    const heir = await scene.serve()
    await first.says('retiring')
    expect((await ask(`${url}/r/late`, { method: 'PUT', body: 'acknowledged' }).answer).status).toBe(200)
    await first.kill()
    await expectHeir(scene, url, heir, ['early', 'late'])
  })

  it('stopped when its successor is ready: the deadline of the successor ends the wait, and the service goes on', async () => {
    const { scene, url, first } = await stage()
    const patient = await scene.start({ readyDelay: 300, readyTimeout: 1_000 })
    await patient.says('listener')
    first.signal('SIGSTOP')
    expect(await patient.failure()).toMatchObject({ code: 'ERR_FDB_DEADLINE', retryable: true })
    first.signal('SIGCONT')
    expect(await whoServes(url)).toBe(first.pid)
    const next = await scene.serve({ upgrade: { ...TIMES, probation: 0 } })
    expect(await next.order('get', { key: 'early' })).toEqual({ item: 'acknowledged' })
  })
})
