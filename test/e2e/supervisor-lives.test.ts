import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { native } from '../../src/kernel/native.js'
import type { VersionSettings } from '../../src/run/settings.js'
import { Supervisor } from '../../src/run/supervisor.js'
import { NIGHTLY } from '../lanes/lane.js'
import { children } from '../lanes/remains.js'
import { openFds } from '../processes/descriptors.js'
import { OwnTimers } from '../processes/own-timers.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { SHOP } from './cli-processes.js'

/** A supervisor in this process, and the programs of the shell that it starts. */
interface Life {
  readonly supervisor: Supervisor
  readonly folder: string
  readonly lines: { text: string; facts: Record<string, unknown> }[]
  /** Changes the settings of the next versions. */
  next(facts: Partial<VersionSettings>): void
}

const sh = (text: string): Partial<VersionSettings> => ({ command: ['/bin/sh', '-c', text] })
const STAYS = sh('exec sleep 600')

function settingsWith(facts: Partial<VersionSettings>): VersionSettings {
  return {
    command: [],
    env: {},
    listen: [],
    nonBlocking: false,
    ready: { kind: 'delay', ms: 1 },
    asking: { interval: null, timeout: 10_000, passes: 1 },
    readyTimeout: 60_000,
    healthyFor: 0,
    probation: 0,
    stopSignal: 'SIGTERM',
    stopTimeout: 30_000,
    survive: false,
    ...STAYS,
    ...facts,
  }
}

const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

async function begin(
  facts: Partial<VersionSettings> = {},
  restart: 'never' | 'always' = 'never',
): Promise<Life> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-lives-'))
  folders.push(folder)
  const lines: Life['lines'] = []
  const log = (facts: object, text: string) => void lines.push({ text, facts: { ...facts } })
  let now = settingsWith(facts)
  const supervisor = await Supervisor.start({
    logger: { ...SILENT, info: log, warn: log, error: log },
    settings: {
      name: 'shop',
      control: join(folder, 'run', 'control.sock'),
      pidFile: join(folder, 'pid'),
      restart,
      restartDelay: 60_000,
      upgradeSignal: 'SIGHUP',
    },
    read: async () => now,
    readSupervisorSettings: null,
  })
  return {
    supervisor,
    folder,
    lines,
    next: facts => {
      now = settingsWith(facts)
    },
  }
}

async function logged({ lines }: Life, text: string, least = 1): Promise<void> {
  await until(
    `the log says: ${text}`,
    () => lines.filter(line => line.text === text).length >= least,
    20_000,
    () => lines,
  )
}

/** The guardian of a supervisor ends after it: this process has not reaped it then. */
const isRunning = (child: string) => !/^\d+ $/.test(child)

/** The holdings of this process. */
function census() {
  return {
    owned: native.openCount(),
    descriptors: openFds(process.pid),
    children: children().filter(isRunning),
    listeners: process.eventNames().map(name => `${String(name)} ${process.listenerCount(name)}`),
  }
}

/** Runs a whole life, and checks that nothing of it is left in this process and in the folder. */
async function leavesNothing(begun: () => Promise<Life>, live: (life: Life) => Promise<void>): Promise<Life> {
  const before = census()
  using timers = new OwnTimers()
  const life = await begun()
  // The supervisor of a test that fails would reap the processes of the next one.
  onTestFinished(async () => {
    life.supervisor.stop({ now: true })
    await life.supervisor.ended
  })
  await live(life)
  await life.supervisor.ended
  const left = () => timers.places.filter(place => !ENDS_BY_ITSELF.test(place))
  const isAsBefore = () => JSON.stringify(census()) === JSON.stringify(before)
  await until(
    'nothing is left',
    () => left().length === 0 && isAsBefore(),
    20_000,
    () => ({
      before,
      now: census(),
      timers: left(),
    }),
  )
  expect(readdirSync(life.folder, { recursive: true, encoding: 'utf8' }).filter(isRemainder)).toEqual([])
  return life
}

/** The note that a version is not ready yet. */
const ENDS_BY_ITSELF = /^run\/supervisor\.ts (?:Supervisor\.)?#spawn$/
/** The events outlive the service: fd-broker history reads them. */
const isRemainder = (name: string) => name !== 'run' && !/\.(?:lock|events)$/.test(name)

/** Modules, and descriptors that Node opens once. */
beforeAll(async () => {
  const life = await begin()
  await logged(life, 'a version serves')
  life.supervisor.stop()
  await life.supervisor.ended
})

const refused = (upgrade: Promise<unknown>, code: string) => expect(upgrade).rejects.toMatchObject({ code })

describe('the life of a supervisor leaves no process, descriptor, timer and file', () => {
  const lives: [string, Partial<VersionSettings>, (life: Life) => Promise<void>][] = [
    ['if it is ended', {}, async () => {}],
    ['if it is ended twice', {}, async ({ supervisor }) => supervisor.stop()],
    [
      'if its version ignores the order to end',
      { ...sh('trap "" TERM; while :; do sleep 600; done'), stopTimeout: 50 },
      async () => {},
    ],
    [
      'after upgrades',
      {},
      async ({ supervisor }) => {
        for (let count = 0; count < 3; count++) await supervisor.upgrade()
      },
    ],
    [
      'after versions that end before they serve',
      {},
      async ({ supervisor, next }) => {
        next({ ...sh('exit 3'), ready: { kind: 'fd' } })
        for (let count = 0; count < 2; count++)
          await refused(supervisor.upgrade(), 'ERR_FDB_SUCCESSOR_EXITED')
      },
    ],
    [
      'after versions that are not ready in time',
      {},
      async ({ supervisor, next }) => {
        next({ ready: { kind: 'fd' }, readyTimeout: 50 })
        for (let count = 0; count < 2; count++) await refused(supervisor.upgrade(), 'ERR_FDB_DEADLINE')
      },
    ],
    [
      'after programs that do not exist',
      {},
      async ({ supervisor, next }) => {
        next({ command: ['/no/such/program'] })
        for (let count = 0; count < 2; count++) await refused(supervisor.upgrade(), 'ERR_FDB_NO_BINARY')
      },
    ],
    [
      'after releases that are no links',
      {},
      async ({ supervisor, folder }) => {
        const release = { at: folder, to: folder }
        for (let count = 0; count < 2; count++)
          await refused(supervisor.upgrade({ release }), 'ERR_FDB_NO_BINARY')
      },
    ],
    [
      'after upgrades that are cancelled',
      {},
      async life => {
        const { supervisor, next } = life
        next({ ready: { kind: 'fd' } })
        for (let count = 0; count < 2; count++) {
          const cancel = new AbortController()
          const upgrade = refused(supervisor.upgrade({}, cancel.signal), 'ERR_FDB_ABORTED')
          await logged(life, 'a version was started', count + 2)
          cancel.abort()
          await upgrade
        }
      },
    ],
    [
      'amid an upgrade',
      {},
      async life => {
        life.next({ ready: { kind: 'fd' } })
        const upgrade = life.supervisor.upgrade()
        upgrade.catch(() => {})
        await logged(life, 'a version was started', 2)
        life.supervisor.stop()
        await refused(upgrade, 'ERR_FDB_ABORTED')
      },
    ],
    [
      'after a rollback',
      { probation: 600_000 },
      async ({ supervisor }) => {
        await supervisor.upgrade()
        await supervisor.rollback({ reason: 'a test', at: null }, new AbortController().signal)
      },
    ],
  ]

  it.each(lives)('%s', async (_when, facts, live) => {
    await leavesNothing(
      () => begin(facts),
      async life => {
        await logged(life, 'a version serves')
        await live(life)
        life.supervisor.stop()
      },
    )
  })

  it('if its program ends, and before it is started again', async () => {
    await leavesNothing(
      () => begin({ ...sh('exit 3'), ready: { kind: 'fd' } }, 'always'),
      async life => {
        await logged(life, 'no version runs any more; the next one starts after a delay')
        life.supervisor.stop()
      },
    )
  })

  it.runIf(NIGHTLY)('if a version that was replaced has clients yet: it is killed in its time', async () => {
    const port = await freePort()
    const { lines } = await leavesNothing(
      () => begin(),
      async life => {
        await logged(life, 'a version serves')
        const control = join(life.folder, 'shop.sock')
        const shop = ['--control', control, '--listen', `tcp://127.0.0.1:${port}`, '--routes', '1']
        life.next({
          command: [process.execPath, SHOP, ...shop],
          ready: { kind: 'handoff', control },
          stopTimeout: 500,
        })
        await life.supervisor.upgrade()
        const client = get({ port, path: '/stream?lines=600', agent: false })
        client.on('error', () => {})
        onTestFinished(() => void client.destroy())
        await new Promise(resolve => client.once('response', resolve))
        await life.supervisor.upgrade()
        life.supervisor.stop()
        life.supervisor.stop()
      },
    )
    const killed = lines.filter(({ text }) => text === 'a version did not end in time and is killed')
    expect(killed.map(({ facts }) => facts.version)).toContain(2)
  })
})
