import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, it } from 'vitest'
import { freePort, Scene } from '../processes/scene.js'

it('one that waits to join is turned away when the process that was to hand over leaves, not when it has drained', async () => {
  const port = await freePort()
  const scene = Scene.open({
    // The first takes back when it has not heard from the second for so long: the third must have come by then.
    upgrade: { probation: 9_000, heartbeat: 50, silence: 5_000 },
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'net' }],
  })
  const first = await scene.serve()
  const sickFile = scene.file('sick')
  const second = await scene.serve({ sickFile, drain: { timeout: 60_000, move: 'off' } })
  await first.says('retiring')
  // A connection that does not end keeps the second draining.
  const client = connect(port, '127.0.0.1').on('error', () => {})
  await once(client, 'connect')
  await scene.statusWhere('it is taken', ({ connections }) => connections === 1)
  scene.write('sick', '')
  const third = await scene.start()
  expect(await third.failure()).toMatchObject({
    code: 'ERR_FDB_BUSY',
    retryable: true,
    message: expect.stringContaining(`${second.pid}`),
  })
  await third.end()
  expect(await second.order('phase')).toBe('leaving')
  await first.says('reinstated')
  client.destroy()
  const fourth = await scene.serve()
  // The one before may have taken the call just before it stopped accepting them.
  await scene.statusWhere('the fourth answers', ({ pid }) => pid === fourth.pid)
})
