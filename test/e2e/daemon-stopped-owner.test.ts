import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { serviceWhere, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const TIMES = { probation: 60_000, heartbeat: 50, silence: 1_000, freeze: 100, quiesce: 100, commit: 300 }

/** The successor is killed in its probation, while the process that stands by for it is stopped: that one is given the right. */
async function givenToStopped(): Promise<{ scene: Scene; elder: App }> {
  const scene = Scene.open({ hosting: 'daemon', routes: 0, upgrade: TIMES })
  await startDaemon(scene, { upgrade: TIMES })
  const elder = await scene.serve()
  await elder.order('put', { key: 'by the elder', value: 1 })
  const second = await scene.serve()
  await elder.says('retiring')
  await second.order('put', { key: 'by the second', value: 2 })
  elder.signal('SIGSTOP')
  await second.kill()
  await serviceWhere(scene, 'a joiner may come', ({ phase, pid }) => phase === 'idle' && pid === elder.pid)
  return { scene, elder }
}

describe('a stopped member for which a restarted daemon waits', () => {
  it.runIf(NIGHTLY)('ends with --kill-stuck: then the next member may come', async () => {
    const scene = Scene.open({ hosting: 'daemon', routes: 0, upgrade: TIMES })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const member = await scene.serve()
    member.signal('SIGSTOP')
    await daemon.kill()
    await startDaemon(scene, { upgrade: TIMES })
    using client = await OperatorClient.connect(scene.control)
    const status = await serviceWhere(scene, 'it is awaited', ({ blockedBy }) => blockedBy.length > 0)
    expect(status.blockedBy).toEqual([member.pid])
    await expect(client.upgrade({ killStuck: true })).rejects.toMatchObject({
      code: 'ERR_FDB_BUSY',
      message: expect.stringContaining('no member serves: start one'),
    })
    await member.end()
    await scene.serve()
  })
})

describe('a stopped process that the daemon has given its right back', () => {
  it('blocks no joiner: that one serves with all that was acknowledged, and the stopped one stands by when it goes on', async () => {
    const { scene, elder } = await givenToStopped()
    const third = await scene.serve()
    expect(await third.order('all')).toEqual({ 'by the elder': 1, 'by the second': 2 })
    await third.order('put', { key: 'by the third', value: 3 })
    elder.signal('SIGCONT')
    expect(await elder.order('phase')).toBe('standby')
    await third.kill()
    await elder.says('reinstated')
    expect(await elder.order('all')).toEqual({ 'by the elder': 1, 'by the second': 2, 'by the third': 3 })
  })

  it.runIf(NIGHTLY)(
    'takes it late, when it goes on before a joiner has come, and is replaced as any other',
    async () => {
      const { scene, elder } = await givenToStopped()
      elder.signal('SIGCONT')
      await elder.says('reinstated')
      await elder.order('put', { key: 'late', value: 4 })
      const third = await scene.serve()
      expect(await third.order('all')).toEqual({ 'by the elder': 1, 'by the second': 2, late: 4 })
    },
  )
})
