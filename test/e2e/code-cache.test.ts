import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url))
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MEMBER = fileURLToPath(new URL('../fixtures/small-member.mjs', import.meta.url))
const HOOK = fileURLToPath(new URL('../fixtures/loaded-at-start.cjs', import.meta.url))
/** The head of the file, before the facts; its last four bytes say how long these are. */
const HEAD_BYTES = 32
/** Says whether V8 takes code that was kept of the program, in a process that has done nothing yet. */
const TAKES = `
const { readFileSync } = require('node:fs')
const [file, kept] = process.argv.slice(1)
const source = require('node:module').wrap(readFileSync(file, 'latin1'))
const bytes = readFileSync(kept)
const cachedData = bytes.subarray(${HEAD_BYTES} + bytes.readUInt32LE(${HEAD_BYTES} - 4))
const { cachedDataRejected } = new (require('node:vm').Script)(source, { filename: file, cachedData })
process.stdout.write(String(!cachedDataRejected))`

/** A sandbox whose commands keep their code in a folder of it. */
function scene() {
  const sandbox = Sandbox.open()
  const folder = join(sandbox.folder, 'code')
  const command = (...args: string[]) => [
    'env',
    `FD_BROKER_CODE_CACHE=${folder}`,
    process.execPath,
    join(DIST, 'cli.cjs'),
    ...args,
  ]
  const files = () => {
    try {
      return readdirSync(folder).map(name => join(folder, name))
    } catch {
      return []
    }
  }
  const config = join(sandbox.folder, 'edge.json')
  writeFileSync(
    config,
    JSON.stringify({
      service: 'edge',
      control: sandbox.control,
      listeners: [{ name: 'http', address: 'tcp://127.0.0.1:0' }],
      routes: [{ host: '*', path: '/', respond: { status: 200, body: 'ok' } }],
      upgrade: { probation: '0s' },
    }),
  )
  return { sandbox, command, config, files }
}

/** Sets the times long ago, so that the test sees a new file. */
const age = (file: string) => utimesSync(file, 1, 1)
const isAged = (file: string) => statSync(file).mtimeMs === 1000

it('a command keeps its compiled code, and starts with it the next time', async () => {
  const { sandbox, command, config, files } = scene()
  const check = () => sandbox.runCommand(command('proxy', '--config', config, '--check'))
  expect(await check()).toMatchObject({ code: 0, stderr: '' })
  const [file = '', ...others] = files()
  expect(others).toEqual([])
  age(file)
  expect(await check()).toMatchObject({ code: 0, stderr: '' })
  expect(isAged(file)).toBe(true)
  // An empty variable is none.
  await sandbox.runCommand(['env', '-u', 'NODE_OPTIONS', ...command('proxy', '--config', config, '--check')])
  expect(files()).toEqual([file])
  // A damaged file is not used, and written again.
  writeFileSync(file, readFileSync(file).fill(7, 1000, 2000))
  age(file)
  expect(await check()).toMatchObject({ code: 0, stderr: '' })
  expect(isAged(file)).toBe(false)
  expect(await sandbox.runCommand(command('proxy', '--config', 'missing.json', '--check'))).toMatchObject({
    code: 1,
  })
})

it.runIf(NIGHTLY)(
  'a proxy that took over, and is replaced then, adds to it what was compiled for that',
  async () => {
    const { sandbox, command, config, files } = scene()
    const kept = async (when: string) => {
      const mark = `fd-broker code 2 ${when}`
      const whole = () => files().filter(name => name.endsWith('.v8'))
      const found = () => whole().find(name => readFileSync(name, 'latin1').startsWith(mark))
      const file = await until(`the code is kept of one that has ${when}`, found)
      return { file, bytes: statSync(file).size }
    }
    const start = () => sandbox.launch(command('proxy', '--config', config))
    await start()
    const served = await kept('served')
    await start()
    const joined = await kept('joined')
    await start()
    const left = await kept('left')
    expect([joined.file, left.file]).toEqual([served.file, served.file])
    expect(joined.bytes).toBeGreaterThan(served.bytes)
    expect(left.bytes).toBeGreaterThan(joined.bytes)
    const takes = await sandbox.runCommand([
      process.execPath,
      '-e',
      TAKES,
      join(DIST, 'program.cjs'),
      left.file,
    ])
    expect(takes.stdout).toBe('true')
  },
)

/** Has a process write what of Node it loads. */
const hooked = (file: string) => ['env', `FDB_LOADED=${file}`, `NODE_OPTIONS=--require=${HOOK}`]
const written = async (file: string) =>
  JSON.parse(await until('it has written', () => (existsSync(file) ? readFileSync(file, 'utf8') : null))) as {
    all: string[]
    later: string[]
  }

it('a proxy that takes over loads nothing of Node that few starts need, and with other flags of V8 than Node was built with, nothing at all', async () => {
  const { sandbox, command, config } = scene()
  const loaded = join(sandbox.folder, 'loaded.json')
  const proxy = command('proxy', '--config', config)
  await sandbox.launch(proxy)
  await sandbox.statusWhere('it serves', ({ generation }) => generation === 1)
  const next = await sandbox.launch([...hooked(loaded), ...proxy])
  await sandbox.statusWhere('the next serves', ({ pid, phase }) => pid === next && phase === 'idle')
  process.kill(next, 'SIGWINCH')
  const { all, later } = await written(loaded)
  expect(all).toEqual(expect.arrayContaining(['net', 'cluster', 'zlib']))
  expect(all.filter(name => ['crypto', 'tls', 'http', 'https'].includes(name))).toEqual([])
  expect(later).toEqual([])
})

it('a proxy that is replaced loads nothing of Node either, because its clients would wait for it', async () => {
  const { sandbox, command, config } = scene()
  const loaded = join(sandbox.folder, 'loaded.json')
  const proxy = command('proxy', '--config', config)
  const first = await sandbox.launch([...hooked(loaded), ...proxy])
  await sandbox.statusWhere('it serves', ({ generation }) => generation === 1)
  await sandbox.launch(proxy)
  await until('the first one has ended', () => hasEnded(first))
  expect(await written(loaded)).toMatchObject({ later: [] })
})

it.runIf(NIGHTLY)(
  'a proxy keeps it when it has served for a while, and V8 takes it for the next one',
  async () => {
    const { sandbox, command, config, files } = scene()
    await sandbox.launch(command('proxy', '--config', config))
    const file = await until('the code is kept', () => files().find(name => /proxy-\w+\.v8$/.test(name)))
    expect(readFileSync(file, 'latin1')).toContain('served')
    const { stdout } = await sandbox.runCommand([
      process.execPath,
      '-e',
      TAKES,
      join(DIST, 'program.cjs'),
      file,
    ])
    expect(stdout).toBe('true')
  },
)

describe('a server with the library', () => {
  function member() {
    const { sandbox, files } = scene()
    const start = (folder: string, ...flags: string[]) =>
      sandbox.launch([
        'env',
        `FD_BROKER_CODE_CACHE=${folder}`,
        process.execPath,
        ...flags,
        MEMBER,
        sandbox.control,
      ])
    const serves = (pid: number) =>
      sandbox.statusWhere('it serves', status => status.pid === pid && status.phase === 'idle')
    return { sandbox, files, start, serves, folder: join(sandbox.folder, 'code') }
  }

  it.runIf(NIGHTLY)(
    'keeps its code when it serves, when its next version does, and when it has left, and prints nothing',
    async () => {
      const { sandbox, files, start, serves, folder } = member()
      const kept = async (stage: string) =>
        await until(`the code is kept of one that has ${stage}`, () =>
          files().find(
            name =>
              /library-\w+\.v8$/.test(name) &&
              readFileSync(name, 'latin1').startsWith(`fd-broker code 2 ${stage}`),
          ),
        )
      await serves(await start(folder))
      const served = await kept('served')
      const second = await start(folder)
      await serves(second)
      expect(await kept('joined')).toBe(served)
      await serves(await start(folder))
      expect(await kept('left')).toBe(served)
      await until('it has ended', () => hasEnded(second))
      const takes = [process.execPath, '-e', TAKES, join(DIST, 'library.cjs'), served]
      expect(await sandbox.runCommand(takes)).toMatchObject({ stdout: 'true' })
      expect(sandbox.output).toBe('')
    },
  )

  it('serves without it where the folder cannot be written to, and where Node forbids to write files', async () => {
    const { sandbox, files, start, serves } = member()
    await serves(await start('/dev/null/nowhere'))
    const permission = process.allowedNodeEnvironmentFlags.has('--permission')
      ? '--permission'
      : '--experimental-permission'
    const script = `const { join } = await import('fd-broker')
      const { FdbError } = await import('fd-broker/errors')
      console.log(typeof join, FdbError.name)`
    const flags = ['--no-warnings', permission, '--allow-fs-read=*', '--input-type=module', '-e', script]
    const { stdout } = await sandbox.runCommand(['env', '--chdir', ROOT, process.execPath, ...flags])
    expect(stdout).toBe('function FdbError\n')
    expect(files()).toEqual([])
    expect(sandbox.output).toBe('')
  })
})

describe('an installation with the code that its commands have kept', () => {
  /** A folder as a package manager makes it. */
  function installed() {
    const { sandbox, config } = scene()
    const at = (name: string) => join(sandbox.folder, name)
    const copy = (from: string, to: string, ...how: string[]) => execFileSync('cp', ['-a', ...how, from, to])
    mkdirSync(join(at('a'), 'build'), { recursive: true })
    const root = join(DIST, '..')
    copy(DIST, at('a/dist'))
    copy(join(root, 'package.json'), at('a/package.json'))
    copy(join(root, 'build/Release'), at('a/build/Release'))
    const command = (name: string, ...args: string[]) => [
      ...['env', '-u', 'FD_BROKER_CODE_CACHE', '-u', 'FD_BROKER_ADDON', process.execPath],
      ...[join(at(name), 'dist/cli.cjs'), 'proxy', '--config', config, ...args],
    ]
    /** The folders from which a proxy has loaded files. */
    const loadedBy = async (name: string) => {
      const pid = await sandbox.launch(command(name))
      await sandbox.statusWhere('it serves', status => status.pid === pid)
      const maps = readFileSync(`/proc/${pid}/maps`, 'utf8')
      process.kill(pid, 'SIGKILL')
      await until('it has ended', () => hasEnded(pid))
      return [...new Set(maps.match(/\/\S+fd_broker\.node/g))]
    }
    const check = (name: string) => sandbox.runCommand(command(name, '--check'))
    const kept = (name: string) =>
      readdirSync(join(at(name), '.code-cache')).filter(file => /\.v8$/.test(file))
    return { at, copy, check, loadedBy, kept }
  }

  it.runIf(NIGHTLY)('starts from where it was moved or copied to, and keeps the code again', async () => {
    const { at, copy, check, kept } = installed()
    expect(await check('a')).toMatchObject({ code: 0, stderr: '' })
    expect(kept('a')).toHaveLength(1)
    renameSync(at('a'), at('b'))
    expect(await check('b')).toMatchObject({ code: 0, stderr: '' })
    expect(kept('b')).toHaveLength(2)
    copy(at('b'), at('c'))
    renameSync(at('b'), at('hidden'))
    expect(await check('c')).toMatchObject({ code: 0, stderr: '' })
  })

  it.runIf(NIGHTLY)('loads its own addon, also if its files are hard links of another one’s', async () => {
    const { at, copy, check, loadedBy } = installed()
    expect(await check('a')).toMatchObject({ code: 0 })
    // As a proxy keeps it.
    const [ended = ''] = readdirSync(join(at('a'), '.code-cache'))
    expect(ended).toMatch(/^proxy-/)
    copy(at('a'), at('b'), '-l')
    expect(await loadedBy('b')).toEqual([at('b/build/Release/fd_broker.node')])
    rmSync(at('a'), { recursive: true })
    expect(await loadedBy('b')).toEqual([at('b/build/Release/fd_broker.node')])
  })
})
