import { existsSync, mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MEMBER = fileURLToPath(new URL('cli-member.mjs', import.meta.url))

/** No process here may write a file beyond this, as if the disk were full: 512 times what `ulimit -f` is told. */
const LARGEST = 2 ** 30
const LIMITED = ['sh', '-c', `ulimit -f ${LARGEST / 512}; exec "$@"`, 'sh']
/** Runs a command with a full disk as its stderr. */
const MUTE = ['sh', '-c', 'exec "$@" 2>/dev/full', 'sh']

/** A proxy that answers by itself. */
function prepare(config: object = {}): Promise<Edge> {
  const routes = [{ host: '*', respond: { body: 'one' } }]
  return Edge.prepare({ routes, upgrade: { probation: '0s' }, accessLog: true, ...config })
}

const proxy = (edge: Edge, ...args: string[]) => [
  process.execPath,
  CLI,
  'proxy',
  '--config',
  edge.file,
  ...args,
]
const body = async (edge: Edge) => (await ask(edge.url).answer).body

describe('an access log that finds no room', () => {
  it('goes on when there is some, and says how many lines are missing; the log says once that it stands', async () => {
    const edge = await prepare()
    const file = join(edge.sandbox.folder, 'access')
    writeFileSync(file, '')
    truncateSync(file, LARGEST - 10)
    const pid = await edge.sandbox.launch([...LIMITED, ...proxy(edge, '--access-log-file', file)])
    await edge.serving(pid)
    expect(await body(edge)).toBe('one')
    const stands = /^the access log cannot be written/
    await until('the log says so', () => edge.lines.some(({ msg }) => stands.test(msg)))
    for (let i = 0; i < 3; i++) expect(await body(edge)).toBe('one')
    expect((await edge.status()).pid).toBe(pid)
    truncateSync(file)
    const said = await until('it goes on', () =>
      readFileSync(file, 'utf8')
        .split('\n')
        .find(line => line.includes('missing')),
    )
    expect(JSON.parse(said!)).toMatchObject({ msg: expect.stringMatching(/^lines are missing here/) })
    await body(edge)
    await until('it is written', () => readFileSync(file, 'utf8').endsWith('"msg":"request"}\n'))
    expect(edge.lines.filter(({ msg }) => stands.test(msg))).toHaveLength(1)
  })

  it('/dev/full: the proxy serves, is upgraded, and ends at TERM', async () => {
    const edge = await prepare()
    const command = proxy(edge, '--access-log-file', '/dev/full')
    const pid = await edge.sandbox.launch(command)
    await edge.serving(pid)
    for (let i = 0; i < 3; i++) expect(await body(edge)).toBe('one')
    await edge.logged('the access log cannot be written: its lines are dropped until it can')
    const { code } = await edge.sandbox.run('upgrade', '--control', edge.sandbox.control)
    expect(code).toBe(0)
    await edge.ended(pid)
    expect(await body(edge)).toBe('one')
    const next = await edge.pid
    await edge.signal('SIGTERM', next)
    await edge.ended(next)
  })
})

describe('a log that finds no room', () => {
  it('of the proxy: it serves, and the access log says so', async () => {
    const edge = await prepare()
    const file = join(edge.sandbox.folder, 'access')
    const pid = await edge.sandbox.launch([...MUTE, ...proxy(edge, '--access-log-file', file)])
    await edge.sandbox.statusWhere('it serves', status => status.pid === pid && status.role === 'serving')
    await edge.signal('SIGWINCH', pid)
    await edge.signal('SIGHUP', pid)
    await until('the access log says so', () =>
      readFileSync(file, 'utf8').includes('the log cannot be written'),
    )
    expect(await body(edge)).toBe('one')
    expect((await edge.status()).pid).toBe(pid)
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid)
  })

  it('of a daemon: it goes on, and a log in a file says so on stderr', async () => {
    const sandbox = Sandbox.open()
    const pid = await sandbox.serve('--control', sandbox.control, '--log-file', '/dev/full')
    await sandbox.statusWhere('it listens', status => status.pid === pid)
    const member = await sandbox.launch([process.execPath, MEMBER, sandbox.control, 'shop'])
    await sandbox.statusWhere('the member serves', status => JSON.stringify(status).includes(String(member)))
    for (const signal of ['SIGWINCH', 'SIGHUP'] as const) signalPid(pid, signal)
    const said = () => sandbox.output.match(/^fd-broker: \/dev\/full: the log cannot be written/gm)?.length
    await until('stderr says so', () => said())
    expect((await sandbox.status()).pid).toBe(pid)
    expect(said()).toBe(1)
  })

  it.runIf(NIGHTLY)('of workers: they serve on', async () => {
    const sandbox = Sandbox.open()
    const { control } = sandbox
    const command = ['--service', 'shop', '--count', '1', '--control', control, '--log-file', '/dev/full']
    const start = [process.execPath, CLI, 'workers', 'start', ...command, '--', process.execPath, MEMBER]
    const pid = await sandbox.launch([...start, control, 'shop'])
    await sandbox.statusWhere('they serve', status => JSON.stringify(status).includes('"role":"serving"'))
    expect((await sandbox.status()).pid).toBe(pid)
  })

  it('of `run`: neither it nor its program ends', async () => {
    const run = await Supervised.prepare()
    const env = `FDB_SUPERVISED=${run.orders({})}`
    const pid = await run.sandbox.launch([
      ...MUTE,
      'env',
      env,
      ...run.commandLine(['--ready', 'fd'], [SERVER]),
    ])
    await until('a version serves', async () => (await run.status().catch(() => null))?.generation === 1)
    expect((await run.upgrade()).code).toBe(0)
    // Generation 1 accepts from the same socket until it has closed it.
    await until('generation 2 answers', async () => (await run.whoami()).generation === 2)
    signalPid(pid, 'SIGTERM')
    await run.ended(pid)
  })
})

describe('USR1 where the file of a log cannot be opened anew', () => {
  it('the proxy goes on with those that it has, and says so', async () => {
    const edge = await prepare()
    const folder = join(edge.sandbox.folder, 'logs')
    mkdirSync(folder)
    const files = ['--log-file', join(folder, 'log'), '--access-log-file', join(folder, 'access')]
    const pid = await edge.sandbox.launch(proxy(edge, ...files))
    await edge.sandbox.statusWhere('it serves', status => status.pid === pid && status.role === 'serving')
    renameSync(folder, `${folder}.1`)
    const log = () => readFileSync(join(`${folder}.1`, 'log'), 'utf8')
    const access = () => readFileSync(join(`${folder}.1`, 'access'), 'utf8')
    await edge.signal('SIGUSR1', pid)
    for (const file of ['log', 'access'])
      await until('the log says so', () =>
        log()
          .split('\n')
          .some(
            line => line.includes('could not be opened again') && line.includes(`"${join(folder, file)}"`),
          ),
      )
    expect(await body(edge)).toBe('one')
    await until('it is written to', () => access().includes('"msg":"request"'))
    mkdirSync(folder)
    await edge.signal('SIGUSR1', pid)
    await until('both are there', () => ['log', 'access'].every(file => existsSync(join(folder, file))))
  })

  it.runIf(NIGHTLY)('the daemon goes on with the one that it has', async () => {
    const sandbox = Sandbox.open()
    const folder = join(sandbox.folder, 'logs')
    mkdirSync(folder)
    const pid = await sandbox.serve('--control', sandbox.control, '--log-file', join(folder, 'log'))
    await sandbox.statusWhere('it listens', status => status.pid === pid)
    renameSync(folder, `${folder}.1`)
    signalPid(pid, 'SIGUSR1')
    await until('the log says so', () =>
      readFileSync(join(`${folder}.1`, 'log'), 'utf8').includes('could not be opened again'),
    )
    expect((await sandbox.status()).pid).toBe(pid)
  })
})

describe('the file of a log that cannot be opened', () => {
  it.each([
    ['access-log-file', 'proxy'],
    ['log-file', 'serve'],
    ...perLane(
      [],
      [
        ['log-file', 'proxy'],
        ['log-file', 'workers'],
      ],
    ),
  ])('--%s of %s: is told by option and path, and nothing is joined', async (option, command) => {
    const edge = await prepare()
    const { sandbox } = edge
    const nowhere = join(sandbox.folder, 'nowhere', 'log')
    const given = {
      proxy: ['proxy', '--config', edge.file],
      serve: ['serve', '--control', sandbox.control],
      workers: ['workers', 'start', '--service', 'shop', '--control', sandbox.control],
    }[command]!
    const behind = command === 'workers' ? ['--', 'true'] : []
    expect(await sandbox.run(...given, `--${option}`, nowhere, ...behind)).toEqual({
      code: 2,
      stdout: '',
      stderr: `ERR_FDB_OPTION: option "${option}" is "${nowhere}"; give a file that can be written (ENOENT: no such file or directory, open '${nowhere}')\n`,
    })
    expect(existsSync(sandbox.control)).toBe(false)
  })
})
