import { execFile } from 'node:child_process'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { type JoinOptions, join, serveDaemon } from '../../src/index.js'
import type { StatusReport } from '../../src/operator/status-report.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { serveByCommand, serviceWhere } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const TIMES = { probation: 0, heartbeat: 50 }

function scene(options: Parameters<typeof Scene.open>[0] = {}): { scene: Scene; path: string } {
  const one = Scene.open({ upgrade: TIMES, ...options })
  const path = one.file('state')
  Object.assign(one.defaults, { options: { stateFile: path } })
  return { scene: one, path }
}

/** Whether the last change is in the file. */
const saved = ({ state }: StatusReport) => state.file?.ok === true && state.file.sequence === state.sequence

async function verified(path: string): Promise<{ digest: string; entries: number }> {
  const { stdout } = await promisify(execFile)(process.execPath, [
    CLI,
    'state',
    'verify',
    '--json',
    '--file',
    path,
  ])
  return JSON.parse(stdout)
}

async function killAll(apps: readonly App[]): Promise<void> {
  for (const app of apps) if (!app.ended) await app.kill()
}

const UPGRADES = perLane(2, 5)

describe('a state file', () => {
  it('starts its service when all processes were killed, again and again', async () => {
    const { scene: s, path } = scene()
    let digest = ''
    for (let boot = 0; boot < perLane(2, 4); boot++) {
      const app = await s.serve({ routes: boot === 0 ? 300 : 0 })
      expect(app.find('joined')).toMatchObject({ generation: 1, first: true })
      if (boot > 0) expect((await s.status()).state.digest).toBe(digest)
      await app.order('put', { key: `boot ${boot}`, value: { item: `${boot}` } })
      ;({ digest } = (await s.statusWhere('it is saved', saved)).state)
      expect(await verified(path)).toMatchObject({ digest, entries: 301 + boot, torn: false })
      await app.kill()
    }
    expect(readdirSync(dirname(path)).filter(name => name.startsWith('state'))).toEqual(['state'])
  })

  it.runIf(NIGHTLY)('excludes a process of another control path, before and after an upgrade', async () => {
    const { scene: s } = scene()
    const other = s.file('other.sock')
    const refused = async () => {
      const failure = await (await s.start({ control: other })).failure()
      expect(failure).toMatchObject({ code: 'ERR_FDB_STATE_FILE_IN_USE' })
    }
    const first = await s.serve({ routes: 10 })
    await s.statusWhere('it is saved', saved)
    await refused()
    const second = await s.serve()
    await s.statusWhere('it is saved', report => report.pid === second.pid && saved(report))
    await first.end()
    await refused()
    await second.kill()
    const last = await s.serve({ control: other })
    expect(last.find('joined')).toMatchObject({ first: true })
  })

  it(`goes on over ${UPGRADES} upgrades with changes all the time, and an upgrade that fails`, async () => {
    const { scene: s, path } = scene()
    let current = await s.serve({ routes: 200 })
    const inodes = new Set<number>()
    let acknowledged = 0
    for (let generation = 2; generation <= UPGRADES + 1; generation++) {
      await current.order('hammer', { prefix: `g${generation}-` })
      await pause(100)
      if (generation === 3) await (await s.start({ check: 'throw' })).failure()
      const next = await s.serve()
      acknowledged += (await current.says('hammered')).acknowledged
      await s.statusWhere('it is saved', report => report.pid === next.pid && saved(report))
      inodes.add(statSync(path).ino)
      await current.end()
      current = next
    }
    const { state } = await s.statusWhere('it is saved', saved)
    expect(state.entries).toBe(200 + acknowledged)
    expect(inodes.size).toBeGreaterThan(1)
    expect(await verified(path)).toMatchObject({ digest: state.digest, entries: state.entries })
    await killAll(s.apps)
    await s.serve({ routes: 0 })
    const after = await s.statusWhere('it is saved', saved)
    expect(after.state).toMatchObject({ digest: state.digest, entries: state.entries })
    expect(readdirSync(dirname(path)).filter(name => name.startsWith('state'))).toEqual(['state'])
  })

  it('holds everything when the last process was closed', async () => {
    const { scene: s, path } = scene()
    const app = await s.serve({ routes: 50 })
    await app.order('many', { count: 500 })
    const { digest } = (await s.status()).state
    await app.says('ready')
    app.signal('SIGTERM')
    await app.end()
    expect(await verified(path)).toMatchObject({ digest, torn: false })
    await s.serve({ routes: 0 })
    expect((await s.status()).state.digest).toBe(digest)
  })

  it('follows the way back: the old version writes it again', async () => {
    const { scene: s, path } = scene({ upgrade: { ...TIMES, probation: 60_000, silence: 300 } })
    const first = await s.serve({ routes: 50 })
    const second = await s.serve()
    await second.order('put', { key: 'of the second', value: { item: '2' } })
    await s.statusWhere('it is saved', saved)
    await first.says('retiring')
    await second.kill()
    await first.says('reinstated')
    await first.order('put', { key: 'of the first', value: { item: '1' } })
    const { state } = await s.statusWhere('it is saved', report => report.pid === first.pid && saved(report))
    expect(await verified(path)).toMatchObject({ digest: state.digest, entries: 52 })
  })

  it('stops its service from starting if damaged, with the reason, until it is told what to do', async () => {
    const { scene: s, path } = scene()
    const first = await s.serve({ routes: 2000 })
    await first.says('ready')
    first.signal('SIGTERM')
    await first.end()
    const bytes = readFileSync(path)
    bytes[bytes.length >> 1]! ^= 1
    writeFileSync(path, bytes)
    for (let again = 0; again < perLane(1, 2); again++) {
      const { code, message } = await (await s.start({ routes: 0 })).failure()
      expect(code).toBe('ERR_FDB_STATE_DAMAGED')
      expect(message).toMatch(/offset \d+, after sequence \d+/)
    }
    expect(readFileSync(path)).toEqual(bytes)
    await s.serve({ routes: 0, options: { stateFile: { path, damaged: 'prefix' } } })
    const { state } = await s.statusWhere(
      'the file is new',
      ({ state }) => state.file?.writing === true || state.entries === 0,
    )
    expect(state.entries).toBeLessThan(2000)
    expect(readdirSync(dirname(path)).filter(name => name.includes('.damaged-'))).toHaveLength(1)
  })

  it('stops its service from starting if cut, until one command has repaired it', async () => {
    const { scene: s, path } = scene()
    const first = await s.serve({ routes: 500 })
    await first.order('put', { key: 'one', value: { item: '1' } })
    await first.order('put', { key: 'two', value: { item: '2' } })
    first.signal('SIGTERM')
    await first.end()
    writeFileSync(path, readFileSync(path).subarray(0, -10))
    const { code, message } = await (await s.start({ routes: 0 })).failure()
    expect(code).toBe('ERR_FDB_STATE_DAMAGED')
    const command = /"fd-broker (state repair --file [^"]+)"/.exec(message)![1]!
    const { stdout } = await promisify(execFile)(process.execPath, [CLI, ...command.split(' ')])
    const [, entries] = /it now holds the part before the damage: (\d+) entries, up to sequence \d+/.exec(
      stdout,
    )!
    expect(Number(entries)).toBe(501)
    expect(await verified(path)).toMatchObject({ entries: 501, torn: false })
    await s.serve({ routes: 0 })
    expect((await s.status()).state.entries).toBe(501)
  })

  it('reaches the first member of a daemon that holds nothing, and not one that is given the state', async () => {
    const { scene: s, path } = scene({ hosting: 'daemon' })
    const daemon = await serveByCommand(s)
    const first = await s.serve({ routes: 100 })
    await first.order('put', { key: 'one', value: { item: '1' } })
    await serviceWhere(s, 'it is saved', report => saved(report as StatusReport))
    await first.kill()
    const second = await s.serve()
    expect(second.find('joined')).toMatchObject({ first: false })
    await second.order('put', { key: 'two', value: { item: '2' } })
    const before = (await serviceWhere(s, 'it is saved', report =>
      saved(report as StatusReport),
    )) as StatusReport
    // A reboot: the daemon as well.
    await killAll([daemon, second])
    await serveByCommand(s)
    const third = await s.serve({ routes: 0 })
    expect(third.find('joined')).toMatchObject({ first: true })
    const after = (await serviceWhere(s, 'it serves', ({ phase }) => phase === 'idle')) as StatusReport
    expect(after.state).toMatchObject({ digest: before.state.digest, entries: 102 })
    expect(await verified(path)).toMatchObject({ digest: before.state.digest })
    // The daemon holds what was read: the next member has it, and the file is not asked.
    writeFileSync(path, 'nonsense')
    await third.kill()
    await s.serve({ routes: 0 })
    const last = (await serviceWhere(s, 'it serves', ({ phase }) => phase === 'idle')) as StatusReport
    expect(last.state.digest).toBe(before.state.digest)
  })
})

it.each(['embedded', 'daemon'] as const)(
  'a next version without stateFile is warned of, %s hosting',
  async hosting => {
    const s = Scene.open()
    const { control } = s
    const warnings: unknown[] = []
    const logger = { ...SILENT, warn: (facts: object) => warnings.push(facts) }
    if (hosting === 'daemon') {
      const daemon = await serveDaemon({ control, logger })
      onTestFinished(() => daemon.close())
    }
    const version = async (options: Partial<JoinOptions>) => {
      const member = await join({ service: 'shop', control, hosting, upgrade: TIMES, logger, ...options })
      onTestFinished(() => member.close({ timeout: 0 }))
      await member.ready()
      return member
    }
    const dropped = () => warnings.filter(facts => 'stateFile' in (facts as object))
    const stateFile = s.file('state')
    const first = await version({ stateFile })
    await version({ stateFile })
    await first.retired
    expect(dropped()).toEqual([])
    // The daemon may not have heard yet that the first one has left.
    await until('the last one serves', () => version({}).catch(() => null))
    expect(dropped()).toContainEqual({ successor: process.pid, stateFile })
  },
)
