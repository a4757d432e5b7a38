import { constants } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { bindListener, parseListenerSpec } from '../../src/listeners/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

async function daemon() {
  const run = await Supervised.prepare()
  const control = join(run.sandbox.folder, 'run', 'broker.sock')
  await run.sandbox.serve('--control', control)
  await until(
    'the daemon listens',
    async () => (await run.sandbox.run('fd', 'list', '--control', control)).code === 0,
  )
  const held = async () => {
    using client = await OperatorClient.connect(control)
    return (await client.descriptors.list()).map(({ name, address }) => `${name} ${address}`)
  }
  return { run, control, held, args: ['--ready', 'fd', '--from', control] }
}

describe('fd-broker run with listeners that a daemon holds', () => {
  it('has them held there, and takes them from there: who connects while it is away waits', async () => {
    const { args, held, run } = await daemon()
    const path = join(run.sandbox.folder, 'a.sock')
    await run.launch([...args, '--listen', `path=unix:${path}`], [SERVER])
    const first = await run.serving()
    expect(await held()).toEqual([`path unix:${path}`, `web tcp://127.0.0.1:${run.port}`])
    await run.upgraded()
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    run.signal('SIGKILL')
    await run.ended()
    await run.ended(first)
    const waiting = run.whoami()
    await run.launch([...args, '--listen', `path=unix:${path}`], [SERVER])
    expect(await waiting).toMatchObject({ generation: 1 })
    // Also where it ends in order.
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    expect(await held()).toHaveLength(2)
    const again = run.whoami()
    await run.launch(args, [SERVER])
    expect(await again).toMatchObject({ generation: 1 })
  })

  it.runIf(NIGHTLY)(
    'leaves it as it is whether a listener blocks where another program runs on it, and so do others with its own',
    async () => {
      const { args, control, held, run } = await daemon()
      const flags = ['sh', '-c', 'grep flags /proc/self/fdinfo/3']
      const exec = async (...options: string[]) => {
        const { stdout } = await run.sandbox.run(
          'exec',
          '--control',
          control,
          ...options,
          'web',
          '--',
          ...flags,
        )
        return Number.parseInt(stdout.split(/\s/)[1]!, 8) & constants.O_NONBLOCK ? 'does not block' : 'blocks'
      }
      // A server with an event loop.
      await run.launch(args, [SERVER])
      await run.serving()
      expect(await held()).toHaveLength(1)
      expect(await exec()).toBe('does not block')
      run.signal('SIGTERM')
      await run.ended()
      expect(await exec()).toBe('blocks')
      const there = [process.execPath, CLI, 'exec', '--control', control, '--non-blocking', 'web']
      await run.sandbox.launch([...there, '--', 'sleep', '600'])
      using client = await OperatorClient.connect(control)
      await until('it is claimed', async () => (await client.descriptors.list())[0]!.users.length === 1)
      await run.launch(['--from', control], ['sleep', '600'])
      await run.logged('a version serves', line => line.pid === run.pid)
      expect(await exec()).toBe('does not block')
    },
  )

  it('refuses a name that is held for something else, and a daemon that is not there', async () => {
    const { control, run } = await daemon()
    const start = (...more: string[]) =>
      run.sandbox.run('run', '--from', control, ...more, '--ready', 'fd', '--', SERVER)
    using client = await OperatorClient.connect(control)
    using other = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
    await client.descriptors.put('web', other)
    expect(await start('--listen', `web=tcp://127.0.0.1:${run.port}`)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/ERR_FDB_FD_TAKEN: .*"web" for something else/),
    })
    expect(await run.sandbox.run('run', '--from', `${control}.none`, '--', 'true')).toMatchObject({
      code: 3,
    })
    expect(await start('--adopt', '1')).toMatchObject({ code: 2 })
  })
})
