import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { whoServes } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'

const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))

it.each(perLane(['embedded'] as const, ['embedded', 'daemon'] as const))(
  'an upgrade goes on where the function that is told of its progress throws, %s hosting',
  async hosting => {
    const port = await freePort()
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
    const scene = Scene.open({ hosting, listeners, upgrade: { probation: 200 } })
    if (hosting === 'daemon') await startDaemon(scene, { upgrade: { probation: 200 } })
    const first = await scene.serve()
    const config = {
      ...first.config,
      name: 'successor',
      commands: scene.file('successor.sock'),
      folder: scene.folder,
    }
    const argv = [process.execPath, APP]
    const { pid } = (await first.order('upgrade', {
      argv,
      env: { FDB_APP: JSON.stringify(config) },
      throws: true,
    })) as { pid: number }
    expect(await whoServes(`http://127.0.0.1:${port}`)).toBe(pid)
    expect((await first.says('progress')).pid).toBe(pid)
  },
)
