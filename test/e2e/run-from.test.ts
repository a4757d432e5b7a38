import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { bindListener, parseListenerSpec } from '../../src/listeners/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

async function daemon() {
  const run = await Supervised.prepare()
  const control = join(run.desk.folder, 'run', 'broker.sock')
  await run.desk.serve('--control', control)
  await until(
    'the daemon listens',
    async () => (await run.desk.run('fd', 'list', '--control', control)).code === 0,
  )
  const held = async () => {
    using client = await OperatorClient.connect(control)
    return (await client.descriptors.list()).map(({ name, address }) => `${name} ${address}`)
  }
  return { run, control, held, args: ['--ready', 'fd', '--from', control] }
}

describe('fd-broker run with listeners that a daemon holds', () => {
  it('has them held there, and takes them from there: who connects while it is away waits', {
    timeout: 60_000,
  }, async () => {
    const { args, held, run } = await daemon()
    const path = join(run.desk.folder, 'a.sock')
    await run.launch([...args, '--listen', `path=unix:${path}`], [SERVER])
    const first = await run.serving()
    expect(await held()).toEqual([`path unix:${path}`, `web tcp://127.0.0.1:${run.port}`])
    expect(await run.upgrade()).toMatchObject({ code: 0 })
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    run.signal('SIGKILL')
    await run.ended()
    await run.ended(first)
    const waiting = run.whoami()
    await run.launch([...args, '--listen', `path=unix:${path}`], [SERVER])
    expect(await waiting).toMatchObject({ generation: 1 })
    // Also where it ends in order.
    expect(await run.desk.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    expect(await held()).toHaveLength(2)
    const again = run.whoami()
    await run.launch(args, [SERVER])
    expect(await again).toMatchObject({ generation: 1 })
  })

  it('refuses a name that is held for something else, and a daemon that is not there', async () => {
    const { control, run } = await daemon()
    const start = (...more: string[]) =>
      run.desk.run('run', '--from', control, ...more, '--ready', 'fd', '--', SERVER)
    using client = await OperatorClient.connect(control)
    using other = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
    await client.descriptors.put('web', other)
    expect(await start('--listen', `web=tcp://127.0.0.1:${run.port}`)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/ERR_FDB_FD_TAKEN: .*"web" for something else/),
    })
    expect(await run.desk.run('run', '--from', `${control}.none`, '--', 'true')).toMatchObject({ code: 3 })
    expect(await start('--adopt', '1')).toMatchObject({ code: 2 })
  })
})
