import { constants, writeFileSync } from 'node:fs'
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
  /** Starts the daemon, and resolves with its pid when it listens. */
  const start = async () => {
    const pid = await run.sandbox.serve('--control', control)
    await until('the daemon listens', async () => (await listeningPid(control)) === pid)
    return pid
  }
  const pid = await start()
  const held = async () => {
    using client = await OperatorClient.connect(control)
    return (await client.descriptors.list()).map(({ name, address }) => `${name} ${address}`)
  }
  /** Kills the daemon and starts the next one; resolves with its pid. */
  const restarted = async (killed: number) => {
    run.signal('SIGKILL', killed)
    await run.ended(killed)
    return await start()
  }
  return { run, control, held, pid, restarted, args: ['--ready', 'fd', '--from', control] }
}

async function listeningPid(control: string): Promise<number | null> {
  try {
    using client = await OperatorClient.connect(control)
    return client.peerPid
  } catch {
    return null
  }
}

describe('fd-broker run with listeners that a daemon holds', () => {
  it.runIf(NIGHTLY)(
    'has them held there, and takes them from there: who connects while it is away waits',
    async () => {
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
    },
  )

  it.runIf(NIGHTLY)('gives them back to a daemon that was killed and started again', async () => {
    const { args, control, held, pid, restarted, run } = await daemon()
    const config = join(run.sandbox.folder, 'run.json')
    const [web, more] = [`tcp://127.0.0.1:${run.port}`, `unix:${join(run.sandbox.folder, 'more.sock')}`]
    writeFileSync(config, JSON.stringify({ listen: { web } }))
    const launched = () => run.launch([...args, '--config', config], [SERVER])
    const holds = (...names: string[]) =>
      until(`the daemon holds ${names}`, async () => `${await held()}` === `${names}`)
    await launched()
    await run.serving()
    const second = await restarted(pid)
    await holds(`web ${web}`)
    // A later version adds a listener; the next image of the supervisor keeps both in the daemon.
    writeFileSync(config, JSON.stringify({ listen: { web, more } }))
    await run.upgraded()
    expect(await held()).toEqual([`more ${more}`, `web ${web}`])
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    const third = await restarted(second)
    await holds(`more ${more}`, `web ${web}`)
    // An operator takes a listener from the daemon: the next one does not get it.
    expect(await run.sandbox.run('fd', 'remove', '--control', control, 'more')).toMatchObject({ code: 0 })
    await run.logged('the daemon holds a listener no longer')
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    await restarted(third)
    await holds(`web ${web}`)
    expect(await run.whoami()).toMatchObject({ generation: 2 })
    run.signal('SIGKILL')
    await run.ended()
    const waiting = run.whoami()
    await launched()
    expect(await waiting).toMatchObject({ generation: 1 })
    const got = run.lines.filter(({ msg }) => msg === 'the daemon has got a listener that it did not hold')
    expect(got.filter(({ listener }) => listener === 'more')).toHaveLength(1)
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
