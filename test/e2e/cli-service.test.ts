import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { WITH_EMPTY_RUN } from '../processes/namespace.js'
import { Scene } from '../processes/scene.js'
import { Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

/** A proxy that answers by itself. */
async function proxy(config: object = {}): Promise<{ edge: Edge; pid: number }> {
  const edge = await Edge.prepare({
    routes: [{ host: '*', respond: { body: 'one' } }],
    upgrade: { probation: '30s' },
    ...config,
  })
  const pid = await edge.sandbox.launch([
    process.execPath,
    CLI,
    'proxy',
    '--config',
    edge.file,
    '--pid-file',
    join(edge.sandbox.folder, 'edge.pid'),
    '--log-file',
    join(edge.sandbox.folder, 'edge.log'),
  ])
  await edge.sandbox.statusWhere('it serves', status => status.pid === pid && status.role === 'serving')
  return { edge, pid }
}

const body = async (edge: Edge) => (await ask(edge.url).answer).body

describe('fd-broker reload, rollback and stop', () => {
  it('reload: the configuration counts when the command has returned; a wrong one changes nothing, and says why', async () => {
    const { edge, pid } = await proxy()
    edge.write({ routes: [{ host: '*', respond: { body: 'two' } }] })
    const control = ['--control', edge.sandbox.control]
    const done = await edge.sandbox.run('reload', ...control)
    expect(done).toEqual({
      code: 0,
      stdout: `generation 1 (pid ${pid}) has read its configuration\n`,
      stderr: '',
    })
    expect(await body(edge)).toBe('two')
    edge.write({ routes: [{ host: '*', upstream: 'nowhere' }] })
    const wrong = await edge.sandbox.run('reload', ...control)
    expect(wrong).toMatchObject({ code: 1, stdout: '' })
    expect(wrong.stderr).toMatch(/ERR_FDB_CONFIG: .*nowhere/)
    expect(await body(edge)).toBe('two')
  })

  it('reload of what has nothing to read: refused', async () => {
    const sandbox = Sandbox.open()
    await sandbox.shop()
    const refused = await sandbox.run('reload', '--control', sandbox.control)
    expect(refused).toMatchObject({ code: 5, stdout: '' })
    expect(refused.stderr).toMatch(/^ERR_FDB_COMMAND_UNKNOWN: .*onReload\(\)/)
  })

  it('rollback in probation: the one before serves again; without a standby: refused', async () => {
    const { edge, pid } = await proxy()
    const control = ['--control', edge.sandbox.control]
    const none = await edge.sandbox.run('rollback', ...control)
    expect(none).toMatchObject({ code: 5, stdout: '' })
    expect(none.stderr).toMatch(/^ERR_FDB_NO_STANDBY: .*fd-broker upgrade -- COMMAND/)
    const upgraded = JSON.parse((await edge.sandbox.run('upgrade', ...control, '--json')).stdout)
    const file = () => Number(readFileSync(join(edge.sandbox.folder, 'edge.pid'), 'utf8'))
    expect(file()).toBe(upgraded.pid)
    const back = await edge.sandbox.run('rollback', ...control, '--json')
    expect(JSON.parse(back.stdout)).toEqual({ ok: true, pid, generation: 1 })
    expect(file()).toBe(pid)
    await edge.ended(upgraded.pid)
    expect(await body(edge)).toBe('one')
  })

  it('stop: ends the service, returns when its process has ended, and then there is none', async () => {
    const { edge, pid } = await proxy()
    const control = ['--control', edge.sandbox.control]
    const stopped = await edge.sandbox.run('stop', ...control)
    expect(stopped).toEqual({ code: 0, stdout: `process ${pid} has ended\n`, stderr: '' })
    expect(hasEnded(pid)).toBe(true)
    expect(existsSync(join(edge.sandbox.folder, 'edge.pid'))).toBe(false)
    expect(await edge.sandbox.run('stop', ...control)).toMatchObject({ code: 3, stdout: '' })
  })

  it('stop: says after a second that a client is still connected, fails when its time is over; the process ends with the client', async () => {
    const { edge, pid } = await proxy()
    const client = connect(edge.port, '127.0.0.1')
    client.on('error', () => {})
    onTestFinished(() => void client.destroy())
    client.write('GET / HTTP/1.1\r\nHost: a\r\n')
    await until('the client is connected', () => client.readyState === 'open')
    const stopped = await edge.sandbox.run(
      ...['stop', '--control', edge.sandbox.control],
      ...['--timeout', '2s', '--drain', '60s'],
    )
    expect(stopped).toMatchObject({ code: 1, stdout: '' })
    const [waits, late] = stopped.stderr.split('\n')
    expect(waits).toBe(
      `process ${pid} waits for 1 connection, at most until its drain of 60000 ms is over; kill -9 ${pid} ends it at once`,
    )
    expect(late).toContain(
      `process ${pid} was told to end, but still lives after 2000 ms: it still has 1 connection. It ends with the last one, or when its drain of 60000 ms is over. kill ${pid} ends it sooner, unless its own SIGTERM handler waits for the connections; kill -9 ${pid} ends it at once`,
    )
    expect(hasEnded(pid)).toBe(false)
    client.destroy()
    await edge.ended(pid)
  })

  it('stop of a daemon: its members serve on; not where it holds a service alone, unless it may drop it', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.serve('--control', sandbox.control)
    await sandbox.statusWhere('it listens', status => status.pid === pid)
    const services = (status: unknown) => (status as DaemonStatus).services
    const member = await sandbox.launch([process.execPath, MEMBER, sandbox.control, 'shop'])
    await sandbox.statusWhere('the member serves', status => services(status)[0]?.pid === member)
    expect(await sandbox.run('stop', '--control', sandbox.control)).toEqual({
      code: 0,
      stdout: `process ${pid} has ended\n`,
      stderr: '',
    })
    expect(hasEnded(pid)).toBe(true)
    expect(hasEnded(member)).toBe(false)
    const next = await sandbox.serve('--control', sandbox.control)
    await sandbox.statusWhere('the member is back', status => services(status)[0]?.pid === member)
    signalPid(member, 'SIGKILL')
    await sandbox.statusWhere('nobody serves', status => services(status)[0]?.pid === null)
    const refused = await sandbox.run('stop', '--control', sandbox.control)
    expect(refused).toMatchObject({ code: 5, stdout: '' })
    expect(refused.stderr).toMatch(/^ERR_FDB_HELD_ALONE: .*shop/)
    expect(await sandbox.run('stop', '--control', sandbox.control, '--drop')).toMatchObject({ code: 0 })
    expect(hasEnded(next)).toBe(true)
  })

  it.runIf(NIGHTLY)('an upgrade while another is under way: busy', async () => {
    const { edge } = await proxy()
    const control = ['--control', edge.sandbox.control]
    const slow = edge.sandbox.run('upgrade', ...control, '--timeout', '5s', '--', 'sleep', '60')
    await until('the first is under way', () => edge.sandbox.processes().some(line => line === 'sleep 60 '))
    const busy = await edge.sandbox.run('upgrade', ...control)
    expect(busy).toMatchObject({ code: 4, stdout: '' })
    const [, pid = ''] =
      /^ERR_FDB_BUSY: .*is under way: process (\d+) is its successor \(started\), and its end cancels the upgrade;/.exec(
        busy.stderr,
      ) ?? []
    const failed = await slow
    expect(failed.code).toBe(1)
    expect(failed.stdout).toContain(`started     pid ${pid}\n`)
  })
})

describe('a release', () => {
  /** A proxy whose file lies in the folder that a link leads to. */
  async function released() {
    const edge = await Edge.prepare({ upgrade: { probation: '30s' } })
    const folder = edge.sandbox.folder
    const release = (name: string, config: object) => {
      mkdirSync(join(folder, name))
      writeFileSync(join(folder, name, 'edge.json'), JSON.stringify({ ...edge.config, ...config }))
      return join(folder, name)
    }
    const one = release('1', { routes: [{ host: '*', respond: { body: 'one' } }] })
    const two = release('2', {
      routes: [{ host: '*', respond: { body: 'two' } }],
      upgrade: { probation: '0s' },
    })
    const wrong = release('3', { routes: [{ host: '*', upstream: 'nowhere' }] })
    const link = join(folder, 'current')
    symlinkSync(one, link)
    const pid = await edge.sandbox.launch([
      process.execPath,
      CLI,
      'proxy',
      '--config',
      join(link, 'edge.json'),
    ])
    await edge.serving(pid)
    const at = ['--control', edge.sandbox.control, '--at', link]
    const upgrade = (to: string) => edge.sandbox.run('upgrade', ...at, '--binary', to)
    return {
      edge,
      one,
      two,
      wrong,
      link,
      pid,
      upgrade,
      rollback: () => edge.sandbox.run('rollback', ...at),
    }
  }

  it('takes the link to an upgrade; a failed one leaves the link, a rollback in probation puts it back', async () => {
    const { edge, link, one, pid, rollback, two, upgrade, wrong } = await released()
    const failed = await upgrade(wrong)
    expect(failed).toMatchObject({ code: 1 })
    expect(readlinkSync(link)).toBe(one)
    const upgraded = await upgrade(two)
    expect(upgraded).toMatchObject({ code: 0, stderr: '' })
    expect(upgraded.stdout).toMatch(new RegExp(`: fd-broker rollback --at ${link} returns to it\\n$`))
    expect(readlinkSync(link)).toBe(two)
    expect(await body(edge)).toBe('two')
    expect(await rollback()).toMatchObject({ code: 0, stdout: `generation 1 (pid ${pid}) serves again\n` })
    expect(readlinkSync(link)).toBe(one)
    expect(await body(edge)).toBe('one')
  })

  it.runIf(NIGHTLY)('rolls back after its probation by an upgrade to the previous one', async () => {
    const { edge, link, one, pid, rollback, two, upgrade } = await released()
    expect(await upgrade(two)).toMatchObject({ code: 0 })
    // The standby's probation is its own.
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid)
    expect(await rollback()).toMatchObject({ code: 0, stderr: '' })
    expect(readlinkSync(link)).toBe(one)
    expect(await body(edge)).toBe('one')
    expect(await rollback()).toMatchObject({ code: 0 })
    expect(readlinkSync(link)).toBe(two)
  })

  it.runIf(NIGHTLY)('may be an executable: its bytes are replaced at one stroke, and come back', async () => {
    const { edge } = await proxy()
    const program = join(edge.sandbox.folder, 'program')
    const next = join(edge.sandbox.folder, 'next')
    writeFileSync(program, 'old', { mode: 0o755 })
    writeFileSync(next, 'new', { mode: 0o750 })
    const at = ['--control', edge.sandbox.control, '--at', program]
    const failed = await edge.sandbox.run(
      'upgrade',
      ...at,
      '--binary',
      next,
      '--',
      process.execPath,
      '-e',
      'process.exit(3)',
    )
    expect(failed).toMatchObject({ code: 1 })
    expect(readFileSync(program, 'utf8')).toBe('old')
    expect(await edge.sandbox.run('upgrade', ...at, '--binary', next)).toMatchObject({ code: 0 })
    expect(readFileSync(program, 'utf8')).toBe('new')
    expect(readFileSync(`${program}.previous`, 'utf8')).toBe('old')
    const none = await edge.sandbox.run('upgrade', ...at, '--binary', join(edge.sandbox.folder, 'none'))
    expect(none.stderr).toMatch(/^ERR_FDB_NO_BINARY: .*none/)
    expect(await edge.sandbox.run('upgrade', ...at)).toMatchObject({ code: 2 })
  })
})

describe('a running service is found', () => {
  it.runIf(NIGHTLY)(
    'by its pid file, by the variable FD_BROKER_CONTROL, by its name where services are, and alone there',
    async () => {
      const runtime = (sandbox: Sandbox) => join(sandbox.folder, 'runtime')
      const { edge, pid } = await proxy()
      const { sandbox } = edge
      const status = async (before: readonly string[], ...args: string[]) => {
        const words = [process.execPath, CLI, 'status', '--json', ...args]
        const { code, stdout, stderr } = await sandbox.runCommand([...before, ...words])
        return code === 0 ? JSON.parse(stdout).pid : `${code} ${stderr}`
      }
      const pidFile = join(sandbox.folder, 'edge.pid')
      expect(await status([], '--pid-file', pidFile)).toBe(pid)
      expect(await status(['env', `FD_BROKER_CONTROL=${sandbox.control}`])).toBe(pid)
      await edge.sandbox.run('stop', '--control', sandbox.control)
      expect(await status([], '--pid-file', pidFile)).toMatch(/^3 ERR_FDB_NO_HOLDER: .*names no process/)

      mkdirSync(runtime(sandbox), { mode: 0o700 })
      const place = [...WITH_EMPTY_RUN, 'env', `RUNTIME_DIRECTORY=${runtime(sandbox)}`, 'XDG_RUNTIME_DIR=']
      expect(await status(place)).toMatch(/^3 ERR_FDB_NO_HOLDER: no service was found/)
      edge.write({ control: join(runtime(sandbox), 'edge.sock') })
      const second = await edge.launch()
      await until('it is there', async () => (await status(place)) === second)
      expect(await status(place, '--service', 'edge')).toBe(second)
      expect(await status(place, '--service', 'other')).toMatch(
        /^3 ERR_FDB_NO_HOLDER: .*"other".*other\.sock/,
      )
    },
  )
})

it.each([
  ['list'],
  ...perLane(
    [],
    [
      ['add', '--host', 'a.test', '--upstream', 'a'],
      ['remove', '--host', 'a.test'],
    ],
  ),
])('routes %s names the cause where the service is no proxy', async (...words) => {
  const scene = Scene.open()
  await scene.serve()
  expect(await Sandbox.open().run('routes', ...words, '--control', scene.control)).toEqual({
    code: 5,
    stdout: '',
    stderr:
      'ERR_FDB_COMMAND_UNKNOWN: this service is not a proxy and has no routes: name the proxy by --service or --control\n',
  })
})

it.runIf(NIGHTLY)('workers and certificates name the cause where the service has none', async () => {
  const scene = Scene.open()
  await scene.serve()
  const sandbox = Sandbox.open()
  for (const [words, why] of [
    ['workers restart', 'this service has no workers, or is one of them: name the service of all workers'],
    ['certificates list', 'this service is not a proxy and has no certificates: name the proxy'],
  ] as const) {
    const { code, stderr } = await sandbox.run(...words.split(' '), '--control', scene.control)
    expect({ code, stderr }).toEqual({
      code: 5,
      stderr: `ERR_FDB_COMMAND_UNKNOWN: ${why} by --service or --control\n`,
    })
  }
})

describe('a service that is asked for by another’s name', () => {
  const orders = perLane(
    ['stop', 'upgrade', 'rollback'],
    ['stop', 'upgrade', 'reload', 'rollback', 'routes list', 'certificates list'],
  )

  it.runIf(NIGHTLY)(
    'does nothing, and says whose control socket that is; by its own name, or its socket’s, it is meant',
    async () => {
      const { edge, pid } = await proxy()
      const { sandbox } = edge
      const other = [`FD_BROKER_CONTROL=${sandbox.control}`, process.execPath, CLI]
      for (const order of orders) {
        const { code, stderr } = await sandbox.runCommand([
          'env',
          ...other,
          ...order.split(' '),
          '--service',
          'other',
        ])
        expect({ order, code, stderr }).toEqual({
          order,
          code: 3,
          stderr: expect.stringMatching(/^ERR_FDB_SERVICE: .*upgrade\.sock.*"edge".*"other"/),
        })
      }
      expect(await sandbox.status()).toMatchObject({ pid, role: 'serving' })
      for (const name of ['edge', 'upgrade'])
        expect(
          await sandbox.run('reload', '--control', sandbox.control, '--service', name),
          name,
        ).toMatchObject({
          code: 0,
        })
    },
  )

  it.runIf(NIGHTLY)('stays up where it is a program under fd-broker run, too', async () => {
    const { control, sandbox, pid } = await Supervised.start(['--ready', 'fd', '--name', 'shop'])
    const asked = ['stop', '--control', control, '--service']
    expect((await sandbox.run(...asked, 'other')).stderr).toMatch(/^ERR_FDB_SERVICE: .*"shop".*"other"/)
    expect(hasEnded(pid)).toBe(false)
    expect(await sandbox.run(...asked, 'shop')).toMatchObject({ code: 0 })
  })
})

describe('signals to fd-broker proxy', () => {
  it('WINCH: who connects waits, connections go on; HUP: they are answered', async () => {
    const { edge, pid } = await proxy()
    const open = await edge.raw()
    open.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await open.until(text => text.endsWith('one'))
    await edge.signal('SIGWINCH', pid)
    const paused = ({ listeners }: { listeners: readonly { accepting: boolean }[] }) =>
      listeners.every(({ accepting }) => !accepting)
    await edge.sandbox.statusWhere('it accepts no more', paused)
    let answered = false
    const waiting = body(edge).then(text => {
      answered = true
      return text
    })
    open.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await open.until(text => text.endsWith('one'))
    expect(answered).toBe(false)
    await edge.signal('SIGHUP', pid)
    expect(await waiting).toBe('one')
  })

  it('USR1: the file of the log is opened anew', async () => {
    const { edge, pid } = await proxy()
    const log = join(edge.sandbox.folder, 'edge.log')
    renameSync(log, `${log}.1`)
    await edge.signal('SIGUSR1', pid)
    await until('the new file is there', () => existsSync(log))
    await edge.signal('SIGHUP', pid)
    await until('it is written to', () =>
      readFileSync(log, 'utf8').includes('the configuration was read again'),
    )
  })

  it.runIf(NIGHTLY)('USR1: reaches the version that stands by too', async () => {
    const { edge, pid } = await proxy()
    const next = JSON.parse(
      (await edge.sandbox.run('upgrade', '--control', edge.sandbox.control, '--json')).stdout,
    )
    const log = join(edge.sandbox.folder, 'edge.log')
    renameSync(log, `${log}.1`)
    await edge.signal('SIGUSR1', next.pid)
    await until('both write to the new file', () => {
      const open = [pid, next.pid].map(each => openFiles(each))
      return open.every(files => files.includes(log))
    })
  })
})

describe('removed paths of a control socket', () => {
  it('come back, with the lock, and no second service serves beside the first', async () => {
    const { edge, pid } = await proxy({ upgrade: { probation: '0s' } })
    const { control } = edge.sandbox
    rmSync(control)
    rmSync(`${control}.lock`)
    await until('they are back', () => existsSync(control) && existsSync(`${control}.lock`), 20_000)
    expect((await edge.status()).pid).toBe(pid)
    const next = await edge.sandbox.launch([process.execPath, CLI, 'proxy', '--config', edge.file])
    await edge.serving(next)
    await edge.ended(pid)
    rmSync(control)
    await until('it is back', () => existsSync(control), 20_000)
    expect((await edge.status()).pid).toBe(next)
    // A socket of another service is left alone.
    rmSync(control)
    writeFileSync(control, '')
    await edge.signal('SIGTERM', next)
    await edge.ended(next)
    expect(readFileSync(control, 'utf8')).toBe('')
  })

  it.runIf(NIGHTLY)('of a daemon and of a supervisor too', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    rmSync(run.control)
    rmSync(`${run.control}.lock`)
    const sandbox = Sandbox.open()
    const pid = await sandbox.serve('--control', sandbox.control)
    await sandbox.statusWhere('it listens', status => status.pid === pid)
    rmSync(sandbox.control)
    await until('it is back', () => existsSync(sandbox.control), 20_000)
    expect((await sandbox.status()).pid).toBe(pid)
    await until('that is back', () => existsSync(run.control) && existsSync(`${run.control}.lock`), 20_000)
    expect(await run.status()).toMatchObject({ supervisor: { pid: run.pid } })
    // The socket that was put back is left behind, and goes with it.
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    const stopped = await run.sandbox.run('stop', '--control', run.control)
    expect(stopped).toMatchObject({ code: 0, stdout: `process ${run.pid} has ended\n` })
    expect(existsSync(run.control)).toBe(false)
  })
})

/** The files that a process has open. */
function openFiles(pid: number): string[] {
  const folder = `/proc/${pid}/fd`
  return readdirSync(folder).flatMap(fd => {
    try {
      return [readlinkSync(join(folder, fd))]
    } catch {
      return []
    }
  })
}
