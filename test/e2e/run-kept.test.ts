import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { numbersOf } from '../../src/kernel/index.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

/** `fd-broker run` in a unit with `FileDescriptorStoreMax=`: its manager keeps what it is given, and gives it to the next process. */
async function unit() {
  const run = await Supervised.prepare()
  const manager = NotifyRecorder.open(run.desk.folder)
  const file = join(run.desk.folder, 'run.yaml')
  const write = (listeners: Record<string, string>) =>
    writeFileSync(file, JSON.stringify({ command: [SERVER], ready: 'fd', listen: listeners }))
  const start = async (): Promise<number> => {
    const kept = [...manager.kept].flatMap(([name, fds]) => fds.map(fd => ({ name, fd })))
    const script = 'LISTEN_PID=$$ exec "$@" >>"$FDB_TEST_LOG" 2>&1'
    const { pid } = spawn('/bin/sh', ['-c', script, 'sh', ...run.commandLine(['--config', file], [])], {
      env: {
        ...run.desk.env,
        ...manager.env,
        FDB_SUPERVISED: run.orders({}),
        FDSTORE: '512',
        FDB_TEST_LOG: run.desk.log,
        LISTEN_FDS: String(kept.length),
        LISTEN_FDNAMES: kept.map(({ name }) => name).join(':'),
      },
      stdio: ['ignore', 'ignore', 'ignore', ...numbersOf(kept.map(({ fd }) => fd))],
    })
    run.pid = pid!
    return (await run.logged('a version serves', line => line.pid === pid)).child
  }
  const end = async (signal: NodeJS.Signals) => {
    run.signal(signal)
    await run.ended()
  }
  return { run, manager, start, end, write }
}

describe('listeners of fd-broker run that the service manager keeps', () => {
  it('are gone on with when it was killed, or the unit is restarted: who connects waits', async () => {
    const { end, manager, run, start, write } = await unit()
    const path = join(run.desk.folder, 'a.sock')
    write({ web: `tcp://127.0.0.1:${run.port}`, path: `unix:${path}` })
    const first = await start()
    await until('they are kept', () => manager.kept.size === 2)
    await end('SIGKILL')
    await run.ended(first)
    const [waiting, there] = [run.whoami(), connect(path)]
    await once(there, 'connect')
    const second = await start()
    expect(await waiting).toMatchObject({ pid: second })
    there.destroy()
    // They are those of an image that has taken the place of this one, too.
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    await end('SIGTERM')
    const again = run.whoami()
    const third = await start()
    expect(await again).toMatchObject({ pid: third })
    const client = connect(path)
    await once(client, 'connect')
    client.destroy()
    expect(manager.kept.size).toBe(2)
  })

  it('are let go of when no version wants them', async () => {
    const { end, manager, run, start, write } = await unit()
    const path = (name: string) => `unix:${join(run.desk.folder, name)}`
    const web = `tcp://127.0.0.1:${run.port}`
    write({ web, a: path('a.sock'), b: path('b.sock') })
    await start()
    await until('they are kept', () => manager.kept.size === 3)
    write({ web, b: path('b.sock') })
    expect(await run.upgrade()).toMatchObject({ code: 0 })
    await until('one is not', () => manager.kept.size === 2)
    await end('SIGKILL')
    write({ web })
    await start()
    await until('nor the other', () => manager.kept.size === 1)
    expect(await run.whoami()).toMatchObject({ generation: 1 })
  })
})
