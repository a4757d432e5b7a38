import { existsSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 200, heartbeat: 50 }

describe('a version that starts when a cleaner has removed', () => {
  it.each([
    ...perLane<[string, (control: string) => void][]>(
      [],
      [['the lock file', control => rmSync(`${control}.lock`)]],
    ),
    ['the folder of the control path', (control: string) => rmSync(dirname(control), { recursive: true })],
  ])(
    '%s, while the process that serves is stopped: waits for it, and takes over from it',
    async (_what, remove) => {
      const scene = Scene.open({ upgrade: TIMES })
      const first = await scene.serve()
      first.signal('SIGSTOP')
      remove(scene.control)
      const second = await scene.start()
      await until('it has looked for the lock', () => existsSync(`${scene.control}.lock`))
      first.signal('SIGCONT')
      await second.serving()
      expect(second.find('joined')).toMatchObject({ first: false, generation: 2 })
      await first.end()
      // At once: a removed path is put back beside the removal. The second looks after paths that the first has put back, and handed over.
      const removed = `${dirname(scene.control)}~`
      renameSync(dirname(scene.control), removed)
      rmSync(removed, { recursive: true })
      await until('it is back', () => existsSync(scene.control))
      expect((await scene.status()).pid).toBe(second.pid)
    },
  )
})
