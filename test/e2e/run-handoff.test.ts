import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ancestorsOf } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import * as operator from '../processes/operator.js'
import { Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { SHOP, urlOf } from './cli-processes.js'

/** An addon that finds no pidfds. */
const WITHOUT_PIDFDS = fileURLToPath(new URL('../fixtures/addon-without-pidfds.cjs', import.meta.url))

describe('fd-broker run of a program that speaks fd-broker', () => {
  it.runIf(NIGHTLY)(
    'starts the program again when the process that took over from the main process dies, also without pidfds',
    async () => {
      const run = await Supervised.prepare()
      const control = join(run.sandbox.folder, 'run', 'shop.sock')
      const args = ['--control', control, '--listen', 'tcp://127.0.0.1:0', '--routes', '10']
      await run.launch(
        ['--ready', `handoff:${control}`, '--restart', 'always', '--restart-delay', '100ms'],
        [process.execPath, SHOP, ...args],
        { FD_BROKER_ADDON: WITHOUT_PIDFDS },
      )
      const first = await run.serving()
      const { code, stdout } = await run.sandbox.run('upgrade', '--control', control, '--json')
      expect(code).toBe(0)
      const { pid: second } = JSON.parse(stdout)
      await run.ended(first)
      await until('the supervisor has adopted it', async () => (await run.status()).pid === second)
      run.signal('SIGKILL', second)
      await run.serving(2)
      run.signal('SIGTERM')
      await run.ended()
    },
  )

  it.runIf(NIGHTLY)(
    'stays the parent: upgrades by HUP and by the program itself hand over as ever',
    async () => {
      const run = await Supervised.prepare()
      const control = join(run.sandbox.folder, 'run', 'shop.sock')
      const args = ['--control', control, '--listen', 'tcp://127.0.0.1:0', '--routes', '100']
      await run.launch(
        ['--ready', `handoff:${control}`, '--stop-timeout', '20s'],
        [process.execPath, SHOP, ...args],
      )
      const first = await run.serving()
      const before = await operator.status(control)
      expect(before).toMatchObject({ pid: first, generation: 1 })
      const load = await loadOn(urlOf(before), { rate: 200 })
      run.signal('SIGHUP')
      const second = await run.serving(2)
      await load.answeredBy(second, 50)
      await run.ended(first)
      expect(
        run.lines.filter(({ msg, why }) => msg === 'a version is told to end' && why === 'replaced'),
      ).toEqual([])
      const { code, stdout, stderr } = await run.sandbox.run('upgrade', '--control', control, '--json')
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      const { pid: third } = JSON.parse(stdout)
      await load.answeredBy(third, 50)
      await run.ended(second)
      await until('the supervisor has adopted it', async () => (await run.status()).pid === third)
      expect(ancestorsOf(third)[0]).toBe(run.pid)
      run.signal('SIGHUP')
      const fourth = await run.serving(3)
      await load.answeredBy(fourth, 50)
      await load.stop()
      expect(await operator.status(control)).toMatchObject({ pid: fourth, generation: 4 })
      run.signal('SIGTERM')
      await run.ended(fourth)
      await run.ended()
    },
  )
})
