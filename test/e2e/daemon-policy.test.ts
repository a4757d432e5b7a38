import { execFile, execFileSync } from 'node:child_process'
import { chmodSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished, type TestContext } from 'vitest'
import { type Daemon, serveDaemon } from '../../src/daemon/daemon.js'
import { OwnedFd } from '../../src/kernel/index.js'
import { join } from '../../src/member/joining/join.js'
import type { Member } from '../../src/member/member.js'
import { OperatorClient } from '../../src/operator/client.js'
import type { DaemonStatus } from '../processes/daemon.js'
import { signalPid } from '../processes/launch.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'
import { Sandbox } from './cli-processes.js'

const OTHER_USER = fileURLToPath(new URL('../fixtures/other-user.mjs', import.meta.url))
/** Users of no name. */
const [ALLOWED, SEES, UNLISTED] = [12_001, 12_002, 12_003]
const TIMES = { probation: 50, heartbeat: 50 }
const run = promisify(execFile)

type Line = Record<string, unknown>

/** The answers to a process of this user, for every request. */
async function asks(uid: number, control: string): Promise<Record<string, unknown>> {
  const user = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
  const [file = '', ...args] = [...user, process.execPath, OTHER_USER, control, 'shop']
  const { stdout } = await run(file, args, { env: { ...process.env, NODE_OPTIONS: '' } })
  return JSON.parse(stdout)
}

/** A daemon with this configuration, in a folder that everybody may enter. */
async function serve(config: object | string) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-policy-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const file = joinPath(folder, 'broker.yaml')
  const write = (text: object | string) =>
    writeFileSync(file, typeof text === 'string' ? text : JSON.stringify(text))
  write(config)
  const control = joinPath(folder, 'c.sock')
  const log: Line[] = []
  const note = (facts: object, message: string) => log.push({ ...facts, message })
  const logger = { debug: () => {}, info: note, warn: note, error: note }
  const daemon = await serveDaemon({ control, config: file, logger, upgrade: TIMES })
  onTestFinished(() => daemon.close())
  /** The requests that were refused to a user, or allowed. */
  const audited = (user: number, allowed: boolean) =>
    log
      .filter(({ audit, allowed: was }) => audit !== undefined && was === allowed)
      .filter(({ uid }) => uid === user)
      .map(({ audit, service, descriptor, rule }) =>
        [audit, service, descriptor, rule].filter(Boolean).join(' '),
      )
  return { control, daemon, file, folder, write, audited }
}

async function member(control: string, service = 'shop'): Promise<Member> {
  const joined = await join({ service, control, hosting: 'daemon', upgrade: TIMES, drain: { timeout: 0 } })
  onTestFinished(() => joined.close({ timeout: 0 }))
  joined.command('hello', () => 'hello')
  return joined
}

function needsRoot({ skip }: TestContext): void {
  if (process.getuid?.() !== 0) skip('only root can be other users')
}

async function hold(control: string, ...names: string[]): Promise<void> {
  using client = await OperatorClient.connect(control)
  using fd = OwnedFd.duplicate(2, 'stderr')
  for (const name of names) await client.descriptors.put(name, fd)
}

describe('another user', () => {
  it('may do what a rule lets it do, and nothing else; both are in the log', async context => {
    needsRoot(context)
    const allowed = [{ uid: ALLOWED, gid: ALLOWED, executable: process.execPath }]
    const { control, audited } = await serve({
      services: {
        shop: {
          join: allowed,
          put: allowed,
          claim: allowed,
          list: ['owner', ...allowed, { uid: SEES }],
          remove: allowed,
          operate: allowed,
        },
      },
      descriptors: { put: ['owner'], list: [] },
    })
    expect(statSync(control).mode & 0o777).toBe(0o666)
    // A member of the daemon's own user, which the rules of this service leave out: the one for others counts.
    const shop = await member(control, 'mail')
    await shop.ready()
    await hold(control, 'spool')
    await expect(hold(control, 'shop/spool')).rejects.toMatchObject({ code: 'ERR_FDB_DENIED' })
    await expect(member(control)).rejects.toMatchObject({ code: 'ERR_FDB_DENIED' })

    const DENIED = 'ERR_FDB_DENIED'
    const [sees, unlisted] = await Promise.all([SEES, UNLISTED].map(uid => asks(uid, control)))
    // Afterwards: what it does the others would see.
    const may = await asks(ALLOWED, control)
    expect(may).toEqual({
      status: [],
      'fd list': [],
      put: 'done',
      claim: 'ERR_FDB_FD_UNKNOWN',
      remove: 'done',
      upgrade: 'ERR_FDB_SERVICE',
      command: 'ERR_FDB_SERVICE',
      stop: DENIED,
      join: 'done',
    })
    const nothing = {
      put: DENIED,
      claim: DENIED,
      remove: DENIED,
      upgrade: DENIED,
      command: DENIED,
      stop: DENIED,
      join: DENIED,
    }
    expect(sees).toEqual({ status: [], 'fd list': [], ...nothing })
    // If the daemon refuses while the process still sends, the kernel may drop the answer.
    const refused = expect.stringMatching(/^ERR_FDB_(DENIED|CHANNEL_CLOSED)$/)
    for (const answer of Object.values(unlisted!)) expect(answer).toEqual(refused)
    const own = `shop/${ALLOWED}`
    expect(audited(ALLOWED, true)).toEqual([
      `put shop ${own} services.shop.put[0]`,
      'claim shop shop/spool services.shop.claim[0]',
      `remove shop ${own} services.shop.remove[0]`,
      'operate shop services.shop.operate[0]',
      'operate shop services.shop.operate[0]',
      'join shop services.shop.join[0]',
    ])
    expect(audited(ALLOWED, false)).toEqual(['operate fd-broker.daemon daemon.operate'])
    expect(audited(SEES, false)).toEqual([
      `put shop shop/${SEES} services.shop.put`,
      'claim shop shop/spool services.shop.claim',
      `remove shop shop/${SEES} services.shop.remove`,
      'operate shop services.shop.operate',
      'operate shop services.shop.operate',
      'operate fd-broker.daemon daemon.operate',
      'join shop services.shop.join',
    ])
    expect(new Set(audited(UNLISTED, false))).toEqual(new Set(['connect']))
    // join() connects again where it was not heard.
    expect(audited(UNLISTED, false).length).toBeGreaterThanOrEqual(Object.keys(unlisted!).length)
    expect([...audited(SEES, true), ...audited(UNLISTED, true)]).toEqual([])
  })

  it('counts as another when it runs another program, with other rights from the next word on', async context => {
    needsRoot(context)
    const { control, daemon, write } = await serve({
      services: { shop: { list: [{ uid: ALLOWED, executable: '/bin/sh' }] } },
    })
    await (await member(control)).ready()
    expect(await asks(ALLOWED, control)).toMatchObject({ status: 'ERR_FDB_DENIED' })
    write({ services: { shop: { list: [{ uid: ALLOWED, executable: process.execPath }] } } })
    await daemon.reload()
    expect(await asks(ALLOWED, control)).toMatchObject({ status: ['shop'], command: 'ERR_FDB_DENIED' })
    // The last rule that speaks of another user is gone: the kernel keeps it out.
    write({})
    await daemon.reload()
    expect(statSync(control).mode & 0o777).toBe(0o600)
    expect(await asks(ALLOWED, control)).toMatchObject({ status: expect.stringMatching(/^ERR_FDB_/) })
  })
})

describe('the configuration of a daemon', () => {
  it('keeps its last right version when it is wrong, and says what is wrong and where', async () => {
    const { control, daemon, file, write } = await serve('services:\n  shop:\n    limits: { members: 1 }\n')
    await (await member(control)).ready()
    write('services:\n  shop:\n    limits: { memers: 2 }\n')
    await expect(daemon.reload()).rejects.toMatchObject({
      code: 'ERR_FDB_CONFIG',
      message: expect.stringContaining(`${file}:3:15: services.shop.limits.memers: unknown key`),
    })
    // A read of a FIFO would block the daemon until a process writes to it.
    rmSync(file)
    execFileSync('mkfifo', [file])
    await expect(daemon.reload()).rejects.toMatchObject({
      code: 'ERR_FDB_CONFIG',
      message: `${file} cannot be read (it is not a regular file); give the path of a YAML or JSON file`,
    })
    await expect(member(control)).rejects.toMatchObject({ code: 'ERR_FDB_SERVICE_LIMIT' })
    rmSync(file)
    write('services:\n  shop:\n    limits: { members: 2 }\n')
    await daemon.reload()
    await (await member(control)).ready()
  })

  it('comes from the same relative path again when the program has changed its folder', async () => {
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-policy-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    writeFileSync(joinPath(folder, 'broker.yaml'), 'services: { shop: { limits: { members: 1 } } }')
    const before = process.cwd()
    onTestFinished(() => process.chdir(before))
    process.chdir(folder)
    const daemon = await serveDaemon({ control: joinPath(folder, 'c.sock'), config: 'broker.yaml' })
    onTestFinished(() => daemon.close())
    process.chdir('/')
    await daemon.reload()
  })

  it('bounds what a service has', async () => {
    const { control } = await serve({
      default: { limits: { listeners: 1, descriptors: 2 } },
      descriptors: { limit: 3 },
    })
    const shop = await member(control)
    await shop.listen('web', 'tcp://127.0.0.1:0')
    const more = { code: 'ERR_FDB_SERVICE_LIMIT', message: expect.stringContaining('limits.listeners') }
    await expect(shop.listen('more', 'tcp://127.0.0.1:0')).rejects.toMatchObject(more)
    await shop.hold('one', openSync('/dev/null', 'r'))
    await shop.ready({ unserved: ['web'] })
    const most = { code: 'ERR_FDB_SERVICE_LIMIT', message: expect.stringContaining('limits.descriptors') }
    await expect(shop.hold('two', openSync('/dev/null', 'r'))).rejects.toMatchObject(most)
    await hold(control, 'shop/a', 'shop/b', 'c', 'd', 'e')
    await expect(hold(control, 'shop/c')).rejects.toMatchObject(most)
    await expect(hold(control, 'f')).rejects.toThrow('(descriptors.limit of')
  })

  it('bounds what a next version has, with what it takes over', async () => {
    const { control } = await serve({ default: { limits: { listeners: 2, descriptors: 3 } } })
    const unserved = true
    const first = await member(control)
    const specs = await Promise.all(['a', 'b'].map(name => first.listen(name, 'tcp://127.0.0.1:0')))
    await first.ready({ unserved })
    const next = async (own: readonly string[], taken: number) => {
      const version = await member(control)
      for (const { name, spec } of specs.slice(0, taken)) await version.listen(name, spec)
      for (const name of own) await version.listen(name, 'tcp://127.0.0.1:0')
      await version.ready({ unserved })
      return version
    }
    const more = { code: 'ERR_FDB_SERVICE_LIMIT', message: expect.stringContaining('limits.listeners') }
    await expect(next(['c'], 2)).rejects.toMatchObject(more)
    expect(first.phase).toBe('serving')
    const version = await member(control)
    for (const { name, spec } of specs) await version.listen(name, spec)
    for (const name of ['d', 'e']) await version.hold(name, openSync('/dev/null', 'r'))
    await expect(version.ready({ unserved })).rejects.toMatchObject({
      code: 'ERR_FDB_SERVICE_LIMIT',
      message: expect.stringContaining('limits.descriptors'),
    })
    // Another one in place of one that the service had.
    expect((await next(['c'], 1)).phase).toBe('serving')
  })

  it('says how descriptors are claimed', async () => {
    const { control } = await serve({
      services: { shop: { claims: 'exclusive' }, mail: { claims: 'shared' } },
    })
    await hold(control, 'shop/a', 'mail/a')
    using client = await OperatorClient.connect(control)
    const denied = { code: 'ERR_FDB_DENIED' }
    await expect(client.descriptors.claim('shop/a', { shared: true })).rejects.toMatchObject(denied)
    await expect(client.descriptors.claim('mail/a')).rejects.toMatchObject(denied)
    ;(await client.descriptors.claim('shop/a')).close()
    ;(await client.descriptors.claim('mail/a', { shared: true })).close()
  })

  it('says what becomes of a service that nobody serves', async () => {
    const { control, daemon, folder, write } = await serve({})
    const names = async () => (await status(daemon)).map(({ service }) => service).sort()
    const scene = Scene.open({
      control,
      hosting: 'daemon',
      listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }],
    })
    const apps = await Promise.all(['close', 'held', 'run'].map(service => scene.serve({ service })))
    for (const app of apps) signalPid(app.pid, 'SIGKILL')
    await until('nobody serves', async () => (await status(daemon)).every(({ pid }) => pid === null))
    expect(await names()).toEqual(['close', 'held', 'run'])
    const ran = joinPath(folder, 'ran')
    const run = `echo "$FD_BROKER_SERVICE at $FD_BROKER_CONTROL" >> ${ran}`
    write({ services: { close: { unserved: { close: true } }, run: { unserved: { run } } } })
    await daemon.reload()
    await until('the one is closed', async () => !(await names()).includes('close'), 20_000)
    const lines = () => wholeLines(ran)
    await until('for the other the command is run, and again', () => lines().length > 1, 20_000)
    expect(new Set(lines())).toEqual(new Set([`run at ${control}`]))
    expect(await names()).toEqual(['held', 'run'])
    const cli = Sandbox.open()
    const stop = (...words: string[]) => cli.run('stop', '--control', control, '--service', 'held', ...words)
    const refused = await stop()
    expect(refused.stderr).toMatch(/^ERR_FDB_HELD_ALONE: no member serves "held", .* --service held --drop$/m)
    expect(refused.code).toBe(5)
    expect(await names()).toEqual(['held', 'run'])
    expect(await stop('--drop')).toMatchObject({ code: 0, stdout: expect.stringContaining('held has ended') })
    expect(await names()).toEqual(['run'])
  })

  it('says that it keeps what a stopped member has served, or ends the service too', async () => {
    const { control, daemon } = await serve({})
    const names = async () => (await status(daemon)).map(({ service }) => service)
    const scene = Scene.open({
      control,
      hosting: 'daemon',
      listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }],
    })
    const cli = Sandbox.open()
    const stop = (...words: string[]) => cli.run('stop', '--control', control, '--service', 'shop', ...words)
    const first = await scene.serve({ service: 'shop' })
    expect((await stop()).stdout).toBe(
      `process ${first.pid} has ended; the daemon keeps the listeners and the state of shop for its next member (fd-broker stop --service shop --drop ends the service)\n`,
    )
    expect(await names()).toEqual(['shop'])
    const second = await scene.serve({ service: 'shop' })
    expect((await stop('--drop')).stdout).toBe(`process ${second.pid} has ended\n`)
    expect(await names()).toEqual([])
  })
})

async function status(daemon: Daemon): Promise<DaemonStatus['services']> {
  const { services } = (await daemon.status()) as Pick<DaemonStatus, 'services'>
  return services
}
