import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { numbersOf } from '../../src/kernel/index.js'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

/**
 * `fd-broker run` in a unit with `FileDescriptorStoreMax=`: its manager keeps what it is given, and gives it to the next process. `job`: what
 * systemctl tells of the unit; `before`: a command of the shell that it runs first.
 */
async function unit(job?: string, before = '') {
  const run = await Supervised.prepare()
  // As systemd's.
  const place = join(run.sandbox.folder, 'systemd')
  mkdirSync(place)
  const manager = NotifyRecorder.open(place)
  const tools = join(run.sandbox.folder, 'tools')
  if (job !== undefined) {
    mkdirSync(tools)
    const jobs = `${before} echo '  7 other.service stop running'; echo '  8 shop.service ${job}'`
    const told = `${jobs}; : >'${join(run.sandbox.folder, 'asked')}'`
    const program = `#!/bin/sh\ncase $1 in whoami) echo shop.service;; list-jobs) ${told};; esac\n`
    writeFileSync(join(tools, 'systemctl'), program, { mode: 0o755 })
  }
  const file = join(run.sandbox.folder, 'run.yaml')
  const write = (listeners: Record<string, string>) =>
    writeFileSync(file, JSON.stringify({ command: [SERVER], ready: 'fd', listen: listeners }))
  const start = async (): Promise<number> => {
    const kept = [...manager.kept].flatMap(([name, fds]) => fds.map(fd => ({ name, fd })))
    const script = 'LISTEN_PID=$$ exec "$@" >>"$FDB_TEST_LOG" 2>&1'
    const { pid } = spawn('/bin/sh', ['-c', script, 'sh', ...run.commandLine(['--config', file], [])], {
      env: {
        ...run.sandbox.env,
        ...manager.env,
        FDB_SUPERVISED: run.orders({}),
        FDSTORE: '512',
        ...(existsSync(tools) && { PATH: `${tools}:${process.env.PATH}` }),
        FDB_TEST_LOG: run.sandbox.log,
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
  it.runIf(NIGHTLY)('continue when it was killed, or the unit is restarted: clients wait', async () => {
    const { end, manager, run, start, write } = await unit()
    const path = join(run.sandbox.folder, 'a.sock')
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
    // The listeners are those of an image that has taken the place of this one, too.
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

  it.runIf(NIGHTLY)('close when no version wants them', async () => {
    const { end, manager, run, start, write } = await unit()
    const path = (name: string) => `unix:${join(run.sandbox.folder, name)}`
    const web = `tcp://127.0.0.1:${run.port}`
    write({ web, a: path('a.sock'), b: path('b.sock') })
    await start()
    await until('they are kept', () => manager.kept.size === 3)
    write({ web, b: path('b.sock') })
    await run.upgraded()
    await until('one is not', () => manager.kept.size === 2)
    await end('SIGKILL')
    write({ web })
    await start()
    await until('nor the other', () => manager.kept.size === 1)
    expect(await run.whoami()).toMatchObject({ generation: 1 })
  })

  it.runIf(NIGHTLY)(
    'close at once when the unit stops: a connect is refused while the versions answer what they have',
    async () => {
      const { manager, run, start, write } = await unit('stop running')
      write({ web: `tcp://127.0.0.1:${run.port}` })
      await start()
      await until('it is kept', () => manager.kept.size === 1)
      const there = await asking(run)
      run.signal('SIGTERM')
      await until('nothing is kept', () => manager.kept.size === 0)
      await until('connects are refused', async () => (await connects(run.port)) === 'ECONNREFUSED')
      expect(hasEnded(run.pid)).toBe(false)
      expect(await answered(there)).toContain('1,')
      await run.ended()
    },
  )

  it.runIf(NIGHTLY)('close when systemctl is late to say that the unit stops', async () => {
    const { manager, run, start, write } = await unit('stop running', 'sleep 0.8;')
    write({ web: `tcp://127.0.0.1:${run.port}` })
    await start()
    await until('it is kept', () => manager.kept.size === 1)
    const there = await asking(run)
    run.signal('SIGTERM')
    await until('connects are refused', async () => (await connects(run.port)) === 'ECONNREFUSED')
    expect(hasEnded(run.pid)).toBe(false)
    expect(await answered(there)).toContain('1,')
    await run.ended()
  })

  it.runIf(NIGHTLY)('delay no end: run ends with its last version, and systemctl with it', async () => {
    const asks = 'echo $$ >"$0.asks"; exec sleep 1000;'
    const { manager, run, start, write } = await unit('stop running', asks)
    write({ web: `tcp://127.0.0.1:${run.port}` })
    await start()
    await until('it is kept', () => manager.kept.size === 1)
    const there = await asking(run)
    run.signal('SIGTERM')
    const file = join(run.sandbox.folder, 'tools/systemctl.asks')
    const pid = await until('systemd is asked', () =>
      existsSync(file) ? Number(readFileSync(file, 'utf8')) : null,
    )
    expect(await connects(run.port)).toBe('connected')
    const begun = performance.now()
    expect(await answered(there)).toContain('1,')
    await run.ended()
    // The supervisor waits up to 10 s for an answer.
    expect(performance.now() - begun).toBeLessThan(8_000)
    await until('systemctl has ended', () => hasEnded(pid))
  })

  it('stay when the unit is restarted: clients wait for the next process', async () => {
    const { manager, run, start, write } = await unit('restart running')
    write({ web: `tcp://127.0.0.1:${run.port}` })
    await start()
    await until('it is kept', () => manager.kept.size === 1)
    const there = await asking(run)
    run.signal('SIGTERM')
    await until('systemd was asked', () => existsSync(join(run.sandbox.folder, 'asked')))
    expect(await connects(run.port)).toBe('connected')
    expect(await answered(there)).toContain('1,')
    await run.ended()
    expect([manager.kept.size, await connects(run.port)]).toEqual([1, 'connected'])
    const waiting = run.whoami()
    const next = await start()
    expect(await waiting).toMatchObject({ pid: next })
  })
})

/** A request that is under way. */
async function asking(run: Supervised): Promise<Socket> {
  const there = connect(run.port, '127.0.0.1')
  await once(there, 'connect')
  there.write('GET /whoami HTTP/1.1\r\nHost: a\r\n')
  // The version has read that: earlier requests on this connection were answered.
  await run.whoami()
  return there
}

async function answered(there: Socket): Promise<string> {
  there.write('Connection: close\r\n\r\n')
  const [answer] = await once(there, 'data')
  return `${answer}`
}

/** The result of a connect. */
async function connects(port: number): Promise<string> {
  const late = connect(port, '127.0.0.1')
  try {
    await once(late, 'connect')
    return 'connected'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? ''
  } finally {
    late.destroy()
  }
}
