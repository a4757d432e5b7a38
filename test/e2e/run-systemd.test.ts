import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ancestorsOf } from '../processes/launch.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

describe('fd-broker run under a service manager', () => {
  it('tells of its start, of upgrades that succeed and fail, and of its end, and stays the main process', async () => {
    const run = await Supervised.prepare()
    const manager = NotifyRecorder.open(run.sandbox.folder)
    await run.launch(['--ready', 'fd'], [SERVER], manager.env)
    await manager.tells('READY')
    await manager.says(/^version 1 serves$/)
    await run.upgraded()
    await manager.tells('READY', 'RELOADING', 'READY')
    expect((await run.upgrade('--', 'false')).code).toBe(1)
    await manager.tells('READY', 'RELOADING', 'READY', 'RELOADING', 'READY')
    await manager.says(/^version 2 serves: version 3 \(false …, pid \d+\) ended with code 1/)
    run.signal('SIGTERM')
    await manager.tells('READY', 'RELOADING', 'READY', 'RELOADING', 'READY', 'STOPPING')
    await run.ended()
  })

  it.runIf(NIGHTLY)(
    'names no failure that is older than the serving version, and calls no rollback an error',
    async () => {
      const run = await Supervised.prepare()
      const manager = NotifyRecorder.open(run.sandbox.folder)
      await run.launch(['--ready', 'fd'], [SERVER], manager.env)
      await run.serving()
      await run.upgraded()
      const rollback = () => run.sandbox.run('rollback', '--control', run.control)
      expect((await rollback()).code).toBe(0)
      expect(await run.logged('an operator rolled back to the previous version')).toMatchObject({
        ...{ level: 30, version: 2, before: 1 },
        asked: expect.stringMatching(/^fd-broker rollback by uid/),
      })
      const cancelled = run.upgrade('--', 'sleep', '60')
      await manager.says(/^version 4 starts; version 3 serves$/)
      expect((await rollback()).code).toBe(0)
      expect((await cancelled).code).toBe(1)
      await until('the manager was told', () => manager.count('READY') === 4)
      expect(manager.status).toBe('version 3 serves')
    },
  )

  it.runIf(NIGHTLY)('adopts the sockets that it is given, and is heard: one supervises another', async () => {
    const run = await Supervised.prepare()
    const listen = ['--listen', `web=tcp://127.0.0.1:${run.port}`]
    const inner = [process.execPath, CLI, 'run', ...listen, '--ready', 'fd', '--', SERVER]
    await run.launch(['--ready', 'notify'], inner)
    // The inner one has the same log.
    const { child: first } = await run.logged('a version serves', line => line.pid === run.pid)
    const { pid } = await run.whoami()
    expect(ancestorsOf(pid).slice(0, 2)).toEqual([first, run.pid])
    await run.upgraded()
    await run.ended(first)
    expect((await run.whoami()).pid).not.toBe(pid)
    run.signal('SIGTERM')
    await run.ended()
  })
})
