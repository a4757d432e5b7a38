import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { dump } from 'js-yaml'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ROUTES = 600

/** Starts versions of a proxy with routes that answer their number and the word of `write`. */
function scene() {
  const sandbox = Sandbox.open()
  const caches = join(sandbox.folder, 'cache')
  const file = join(sandbox.folder, 'edge.yaml')
  const socket = join(sandbox.folder, 'edge.sock')
  const write = (word: string) =>
    writeFileSync(
      file,
      dump({
        service: 'edge',
        control: sandbox.control,
        listeners: [{ name: 'http', address: `unix:${socket}` }],
        routes: Array.from({ length: ROUTES }, (_, n) => ({
          host: '*',
          path: `/${n}`,
          respond: { body: `${word} ${n}` },
        })),
        upgrade: { probation: '0s' },
      }),
    )
  const command = (root: string) => {
    const cli = join(root, 'dist/cli.cjs')
    return ['env', `FD_BROKER_CODE_CACHE=${caches}`, process.execPath, cli, 'proxy', '--config', file]
  }
  const check = () => sandbox.runCommand([...command(ROOT), '--check'])
  let generation = 0
  const start = async (root = ROOT) => {
    const pid = await sandbox.launch(command(root))
    const next = ++generation
    await sandbox.statusWhere('it serves', status => status.pid === pid && status.generation === next)
    return pid
  }
  const operator = (...words: string[]) => sandbox.run(...words, '--control', sandbox.control)
  const kept = () => (existsSync(caches) ? readdirSync(caches).filter(name => name.endsWith('.config')) : [])
  const answers = async () =>
    await Promise.all(
      [0, ROUTES / 2, ROUTES - 1].map(async n => {
        const { stdout } = await sandbox.runCommand([
          'curl',
          '-s',
          '--unix-socket',
          socket,
          `http://edge.test/${n}`,
        ])
        return stdout
      }),
    )
  const expected = (word: string) => [0, ROUTES / 2, ROUTES - 1].map(n => `${word} ${n}`)
  return { sandbox, check, operator, caches, file, write, start, kept, answers, expected }
}

it.runIf(NIGHTLY)(
  'the next version of a proxy serves the routes of its file, changed, changed back, and unchanged',
  async () => {
    const { sandbox, check, operator, caches, write, start, kept, answers, expected } = scene()
    write('one')
    await start()
    const [name = ''] = await until('the configuration is kept', () => (kept().length > 0 ? kept() : null))
    for (let again = 0; again < 2; again++) {
      await start()
      expect(await answers()).toEqual(expected('one'))
    }
    const digest = await until('the digest of the routes is known', async () => {
      const { stdout } = await operator('state', 'get', 'settings', 'routes.digest')
      return stdout || null
    })
    await start()
    expect(await answers()).toEqual(expected('one'))
    expect(await operator('state', 'get', 'settings', 'routes.digest')).toMatchObject({ stdout: digest })
    const own = join(sandbox.folder, 'own.json')
    writeFileSync(own, JSON.stringify([{ host: '*', path: '/0', respond: { body: 'mine' } }]))
    expect(await operator('routes', 'add', '--file', own)).toMatchObject({ code: 0 })
    await start()
    expect(await answers()).toEqual(['mine', ...expected('one').slice(1)])
    expect(await operator('routes', 'remove', '--host', '*', '--path', '/0')).toMatchObject({ code: 0 })
    await start()
    expect(await answers()).toEqual(expected('one'))
    write('two')
    await start()
    expect(await answers()).toEqual(expected('two'))
    write('one')
    await start()
    expect(await answers()).toEqual(expected('one'))
    write('two')
    const pid = await start()
    expect(await answers()).toEqual(expected('two'))
    await until(
      'the new one is kept',
      () => readFileSync(join(caches, name), 'utf8').includes('two 7') || null,
    )
    write('three')
    expect(await check()).toMatchObject({
      code: 0,
      stderr: '',
      stdout: expect.stringContaining('600 routes'),
    })
    expect(readFileSync(join(caches, name), 'utf8')).toContain('three 7')
    expect(await check()).toMatchObject({ code: 0 })
    process.kill(pid, 'SIGHUP')
    await until('the reload', async () => (await answers())[0] === 'three 0' || null)
    write('two')
    await start()
    expect(await answers()).toEqual(expected('two'))
    expect(readFileSync(sandbox.log, 'utf8')).not.toContain('"level":50')
  },
)

it.runIf(NIGHTLY)('another release does not use what this one has kept', async () => {
  const { sandbox, caches, write, start, kept, answers, expected } = scene()
  write('one')
  await start()
  const [name = ''] = await until('the configuration is kept', () => (kept().length > 0 ? kept() : null))
  const other = join(sandbox.folder, 'other')
  mkdirSync(other)
  for (const part of ['dist', 'build/Release', 'package.json'])
    cpSync(join(ROOT, part), join(other, part), { recursive: true })
  await start(other)
  expect(await answers()).toEqual(expected('one'))
  await until('it keeps its own', () => kept().length === 2 || null)
  expect(kept()).toContain(name)
  expect(readdirSync(caches).filter(each => each.includes('.config.'))).toEqual([])
})
