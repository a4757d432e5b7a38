import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { daemonStatus, serveByCommand, serviceWhere } from '../processes/daemon.js'
import { hasEnded } from '../processes/launch.js'
import { freePort, Scene } from '../processes/scene.js'
import { TRACES_ALL, TRACES_OWN } from '../processes/tracing.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const USER = 12_001
const isRoot = process.getuid?.() === 0

/** `setpriv`: as another user, or as root without the right to trace. */
const asUser = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups']
const powerless = ['setpriv', '--bounding-set=-sys_ptrace', '--inh-caps=-sys_ptrace']

/** Listens where it is told and does nothing else; says so in a line. */
const PLAIN = `
const { createServer } = require('node:net')
const { createSocket } = require('node:dgram')
const places = JSON.parse(process.argv[1])
let left = places.length
const done = () => --left === 0 && console.log('listens')
for (const { udp, ...place } of places)
  if (udp) createSocket('udp4').bind(place, done)
  else createServer(socket => socket.end('plain')).listen(place, done)
`

async function plain(places: readonly object[], wrap: readonly string[] = []): Promise<number> {
  const [file = '', ...args] = [...wrap, process.execPath, '-e', PLAIN, JSON.stringify(places)]
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  return await saidIt(child)
}

async function saidIt(child: ChildProcess): Promise<number> {
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const [line] = await once(createInterface(child.stdout!), 'line')
  expect(line).toBe('listens')
  return child.pid!
}

const LOCAL = [{ host: '127.0.0.1', port: 0 }]

describe.runIf(TRACES_OWN)('fd-broker adopt', () => {
  it('shows what a process listens on, in each family, and not what it is connected to', async () => {
    const sandbox = Sandbox.open()
    const path = join(sandbox.folder, 'plain.sock')
    const abstract = `\0fdb-adopt-${process.pid}`
    const pid = await plain([
      ...LOCAL,
      { host: '::', port: 0 },
      { path },
      { path: abstract },
      { udp: true, address: '127.0.0.1', port: 0 },
    ])
    const { code, stdout, stderr } = await sandbox.run('adopt', '--pid', String(pid), '--json')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { listeners } = JSON.parse(stdout)
    expect(listeners.map(({ address }: { address: string }) => address).sort()).toEqual([
      expect.stringMatching(/^tcp:\/\/127\.0\.0\.1:\d+$/),
      expect.stringMatching(/^tcp:\/\/\[::\]:\d+$/),
      expect.stringMatching(/^udp:\/\/127\.0\.0\.1:\d+$/),
      `unix:${path}`,
      expect.stringContaining(`unix:@${abstract.slice(1)}`),
    ])
    const text = await sandbox.run('adopt', '--pid', String(pid))
    expect(text.stdout).toMatch(/^ADDRESS +FD +INODE +OPTIONS\n/)
    expect(text.stdout).toMatch(/^tcp:\/\/\[::\]:\d+ +\d+ +\d+ +IPv4 too$/m)
  })

  it.runIf(NIGHTLY)(
    'has a daemon hold a listener, which the next version serves: who connects meanwhile waits',
    async () => {
      const port = await freePort()
      const spec = `tcp://127.0.0.1:${port}`
      const scene = Scene.open({ hosting: 'daemon', listeners: [{ name: 'web', spec }] })
      const sandbox = Sandbox.open()
      await serveByCommand(scene)
      const pid = await plain([{ host: '127.0.0.1', port }])
      const args = ['--listener', `web=${spec}`, '--control', scene.control, '--service', 'shop']
      const adopted = await sandbox.run('adopt', '--pid', String(pid), ...args)
      expect(adopted).toEqual({
        code: 0,
        stderr: '',
        stdout: `web  ${spec}\nthe daemon holds them for shop; process ${pid} keeps serving\n`,
      })
      const again = await sandbox.run('adopt', '--pid', String(pid), ...args)
      expect(again).toMatchObject({ code: 4, stderr: expect.stringMatching(/^ERR_FDB_BUSY: /) })
      process.kill(pid, 'SIGKILL')
      await until('it has ended', () => hasEnded(pid))
      const waiting = connect(port, '127.0.0.1')
      await once(waiting, 'connect')
      waiting.end('GET /whoami HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n')
      const app = await scene.serve()
      let answer = ''
      for await (const chunk of waiting.setEncoding('utf8')) answer += chunk
      expect(answer).toMatch(/^HTTP\/1\.1 200 OK/)
      expect(
        (await serviceWhere(scene, 'it serves', ({ pid: now }) => now === app.pid)).listeners,
      ).toMatchObject([{ name: 'web', address: spec }])
      expect((await daemonStatus(scene.control)).services).toHaveLength(1)
    },
  )

  it('refuses several sockets at one address, a process that speaks fd-broker, and half of an order', async () => {
    const sandbox = Sandbox.open()
    const shop = await sandbox.shop()
    const control = ['--control', sandbox.control, '--service', 'shop']
    const place = 'tcp://127.0.0.1:1'
    const half = await sandbox.run('adopt', '--pid', String(shop), '--listener', `web=${place}`)
    expect(half).toMatchObject({ code: 2, stderr: expect.stringMatching(/^ERR_FDB_OPTION: /) })
    const embedded = await sandbox.run(
      'adopt',
      '--pid',
      String(shop),
      '--listener',
      `web=${place}`,
      ...control,
    )
    expect(embedded).toMatchObject({ code: 1, stderr: expect.stringMatching(/^ERR_FDB_NOT_A_DAEMON: /) })
    const own = await sandbox.run('run', '--adopt', String(shop), '--listen', `web=${place}`, '--', 'true')
    expect(own.stderr).toMatch(/^ERR_FDB_ADOPT: .*speaks fd-broker.*upgrade\.sock/m)
  })
})

describe.runIf(isRoot && TRACES_ALL)('the right that is missing is named:', () => {
  it.each<[what: string, as: readonly string[], wrap: readonly string[], right: RegExp]>([
    [
      'the process is another user’s',
      asUser,
      [],
      /uid 0, this one as uid 12001: run as uid 0, or as root with CAP_SYS_PTRACE/,
    ],
    ...perLane<[string, readonly string[], readonly string[], RegExp][]>(
      [],
      [
        ['root has no CAP_SYS_PTRACE', powerless, asUser, /uid 12001, this one as uid 0/],
        [
          'it has more capabilities',
          powerless,
          [],
          /capabilities that this one lacks: run with CAP_SYS_PTRACE/,
        ],
      ],
    ),
  ])('%s', async (_what, as, wrap, right) => {
    const sandbox = Sandbox.open()
    const pid = await plain(LOCAL, wrap)
    const { code, stdout, stderr } = await sandbox.runCommand([
      ...as,
      process.execPath,
      CLI,
      'adopt',
      '--pid',
      String(pid),
    ])
    expect({ code, stdout, stderr }).toEqual({
      code: 5,
      stdout: '',
      stderr: expect.stringMatching(/^ERR_FDB_TRACE: /),
    })
    expect(stderr).toMatch(right)
  })
})
