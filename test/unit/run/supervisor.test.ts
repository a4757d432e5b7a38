import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { parseListenerSpec } from '../../../src/listeners/index.js'
import { Probe, type ProbeEvents } from '../../../src/versions/version-probe.js'
import { ManagerReport, type SupervisorEnd } from '../../fixtures/run.js'
import { supervised as ownSupervisor, SLEEPS } from '../../processes/own-supervisor.js'
import { freePort } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

/** The test says when the version is ready, and whether a check waits for its answer. */
class ToldProbe extends Probe {
  events: ProbeEvents | null = null
  isAsked = false
  isProven = false

  override get isOpen(): boolean {
    return this.isAsked
  }

  override start(_pid: number, events: ProbeEvents): void {
    this.events = events
  }

  override markServing(): void {}

  override markProven(): void {
    this.isProven = true
  }
}

const probes = vi.hoisted(() => [] as ToldProbe[])
/** Called while a probe is made, which may take a few turns of the event loop. */
const making = vi.hoisted(() => ({ probe: () => {} }))
vi.mock(import('../../../src/versions/version-probe.js'), async original => ({
  ...(await original()),
  probeFor: async () => {
    making.probe()
    return () => {
      const probe = new ToldProbe()
      probes.push(probe)
      return probe
    }
  },
}))

const memory = vi.hoisted(() => ({ hasRoom: true }))
vi.mock('../../../src/os/memory-room.js', () => ({
  checkMemoryRoom: () => {
    if (!memory.hasRoom) throw new Error('no room')
  },
}))

afterEach(() => {
  memory.hasRoom = true
  vi.useRealTimers()
  probes.length = 0
  making.probe = () => {}
})

type OwnSupervisor = Awaited<ReturnType<typeof ownSupervisor>>['supervisor']

async function supervised(first: Parameters<typeof ownSupervisor>[0]) {
  const { supervisor, source } = await ownSupervisor(first)
  const started = async (version: number) => {
    await until(`version ${version} has started`, () => probes[version - 1]?.events != null)
    return probes[version - 1]!
  }
  const serves = async (version: number) => {
    const probe = await started(version)
    probe.events!.ready()
    await until(`version ${version} serves`, () => supervisor.generation === version)
    return probe
  }
  return { supervisor, source, started, serves }
}

/** So much of the faked time. A timer first lets the event loop read what has arrived. */
async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 50) {
    vi.advanceTimersByTime(50)
    for (let turn = 0; turn < 4; turn++) await nextTurn()
  }
}

async function connected(port: number): Promise<string> {
  const client = net.connect(port, '127.0.0.1')
  try {
    await once(client, 'connect')
    return 'connected'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? ''
  } finally {
    client.destroy()
  }
}

describe('a supervisor', () => {
  it('hears once that a main process has ended, though both SIGCHLD and a pidfd report it', async () => {
    const { supervisor, source, serves, started } = await supervised({})
    await serves(1)
    // The main process is the first `sleep`, which this process adopts; the second one ignores the order to end.
    const script = `trap '' TERM; sleep 600 & echo $! > main; sleep 600 & wait`
    const cwd = mkdtempSync(join(tmpdir(), 'fdb-main-'))
    onTestFinished(() => rmSync(cwd, { recursive: true }))
    source.next = { ...source.next, command: ['/bin/sh', '-c', script], cwd }
    const upgrading = supervisor.upgrade().catch(() => {})
    const probe = await started(2)
    const main = Number(
      await until('the program has started', () => {
        const file = join(cwd, 'main')
        // The shell creates the file before it writes: signal 9 to process 0 would end this whole run.
        return (existsSync(file) && readFileSync(file, 'utf8').trim()) || null
      }),
    )
    const shell = (supervisor.status() as { upgrade: { pid: number } }).upgrade.pid
    probe.events!.mainProcess(main)
    process.kill(shell, 'SIGKILL')
    process.kill(main, 'SIGKILL')
    await upgrading
    const ends = supervisor.eventLog.read(1).events.filter(({ type }) => type === 'version.ended')
    expect(ends).toMatchObject([{ generation: 2, reason: 'by signal 9' }])
  })

  it('kills a replaced version that drains and ignores the order to end, after the time for that', async () => {
    const { supervisor, serves } = await supervised({
      command: ['sh', '-c', "trap '' TERM; exec sleep 600"],
      ready: { kind: 'handoff', control: join(tmpdir(), 'fdb-no-member.sock') },
    })
    await serves(1)
    const upgraded = supervisor.upgrade()
    await serves(2)
    await upgraded
    let end: SupervisorEnd | undefined
    void supervisor.ended.then(given => (end = given))
    supervisor.stop({ timeoutMs: 20 })
    expect((await until('it has ended', () => end, 30_000)).failure).toBe(null)
  })

  it('says that a version goes on to start without its request, which was cancelled, as none serves', async () => {
    const { supervisor, serves, started } = await supervised({})
    await serves(1)
    const { pid } = supervisor.status() as { pid: number }
    process.kill(pid, 'SIGKILL')
    await until('no version serves', () => supervisor.generation === 0)
    const cancel = new AbortController()
    const upgraded = supervisor.upgrade({}, cancel.signal).catch((error: unknown) => error)
    await started(2)
    cancel.abort()
    const message = expect.stringContaining('version 2 goes on to start')
    expect(await upgraded).toMatchObject({ code: 'ERR_FDB_ABORTED', message })
  })

  it('refuses an upgrade for want of memory, but starts a version in place of one that has ended', async () => {
    memory.hasRoom = false
    const { supervisor, serves } = await supervised({})
    await serves(1)
    await expect(supervisor.upgrade()).rejects.toThrow('no room')
    const { pid } = supervisor.status() as { pid: number }
    process.kill(pid, 'SIGKILL')
    await until('its end is noticed', () => supervisor.generation === 0)
    // The second one was refused, and has no probe.
    await until('the next one has started', () => probes[1]?.events != null)
    probes[1]!.events!.ready()
    await until('the next one serves', () => supervisor.generation === 3)
  })

  it('starts no version of a request that is cancelled while its probe is made', async () => {
    const { supervisor, serves } = await supervised({})
    await serves(1)
    const cancel = new AbortController()
    making.probe = () => cancel.abort()
    await expect(supervisor.upgrade({}, cancel.signal)).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
    expect(supervisor.eventLog.read(1).events.filter(({ type }) => type === 'version.started')).toHaveLength(
      1,
    )
  })

  it('refuses an upgrade for which no descriptor is left, with the numbers', async () => {
    const { supervisor, serves } = await supervised({})
    await serves(1)
    making.probe = () => {
      throw Object.assign(new Error('socketpair EMFILE'), { code: 'EMFILE' })
    }
    await expect(supervisor.upgrade()).rejects.toMatchObject({
      code: 'ERR_FDB_NO_DESCRIPTORS',
      message: expect.stringMatching(
        /^version 2 cannot be started \(EMFILE\): process \d+ has \d+ descriptors open/,
      ),
    })
  })

  it('tells the service manager of the end of a reload also if that fails', async () => {
    const { supervisor, serves } = await supervised({})
    await serves(1)
    const told: string[] = []
    for (const what of ['reportReload', 'update'] as const)
      vi.spyOn(ManagerReport.prototype, what).mockImplementation(() => void told.push(what))
    onTestFinished(() => void vi.restoreAllMocks())
    await expect(supervisor.reload()).rejects.toMatchObject({ code: 'ERR_FDB_COMMAND_UNKNOWN' })
    expect(told).toEqual(['reportReload', 'update'])
  })

  it('executes no next image between the answer to an order to end and the end', async () => {
    const { supervisor, serves } = await supervised({})
    await serves(1)
    supervisor.isStopAnnounced = true
    await expect(supervisor.upgradeSelf()).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('calls no version proven while a health check of it waits for its answer', async () => {
    const { supervisor, started } = await supervised({ probation: 200 })
    const probe = await started(1)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    probe.isAsked = true
    probe.events!.ready()
    await pass(1_000)
    expect([supervisor.generation, probe.isProven]).toEqual([1, false])
    probe.isAsked = false
    await pass(200)
    expect(probe.isProven).toBe(true)
  })

  it('calls no version proven while a rollback may still replace it, and calls it so when that has failed', async () => {
    const { supervisor, serves, started } = await supervised({ probation: 200 })
    await serves(1)
    const upgraded = supervisor.upgrade()
    const second = await started(2)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    second.events!.ready()
    await pass(50)
    await upgraded
    const rolledBack = supervisor.rollback({ reason: 'a test', at: null }, new AbortController().signal)
    const failed = expect(rolledBack).rejects.toMatchObject({ code: 'ERR_FDB_UNHEALTHY' })
    await vi.waitFor(() => expect(probes[2]?.events).toBeTruthy())
    await pass(1_000)
    expect([supervisor.generation, second.isProven]).toEqual([2, false])
    probes[2]!.events!.failed('it is ill')
    await failed
    await pass(200)
    expect([supervisor.generation, second.isProven]).toEqual([2, true])
  })

  it('takes a version that it starts again by itself for no return that an operator has ordered', async () => {
    const { supervisor, serves } = await supervised({ probation: 60_000 })
    await serves(1)
    const upgraded = supervisor.upgrade()
    await serves(2)
    await upgraded
    const rolledBack = supervisor.rollback({ reason: 'a test', at: null }, new AbortController().signal)
    await serves(3)
    await rolledBack
    process.kill((supervisor.status() as { pid: number }).pid, 'SIGKILL')
    await serves(4)
    const failures = supervisor.eventLog.read(1).events.filter(({ type }) => type === 'version.failed')
    expect(failures).toMatchObject([
      { generation: 2, code: 'ERR_FDB_SUCCESSOR_LEFT' },
      { generation: 3, code: 'ERR_FDB_SUCCESSOR_EXITED' },
    ])
  })

  it.each<[string, (supervisor: OwnSupervisor, cancel: AbortController) => void]>([
    ['that is cancelled', (_supervisor, cancel) => cancel.abort()],
    ['when it is told to end', supervisor => supervisor.stop()],
  ])('starts no version %s while it reads the settings', async (_, happens) => {
    const { supervisor, source, serves } = await supervised({})
    await serves(1)
    let read!: () => void
    source.ready = new Promise(resolve => {
      read = resolve
    })
    const cancel = new AbortController()
    const upgraded = supervisor.upgrade({}, cancel.signal)
    const refused = expect(upgraded).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
    happens(supervisor, cancel)
    read()
    await refused
    for (let turn = 0; turn < 4; turn++) await nextTurn()
    expect(probes).toHaveLength(1)
  })

  it('kills the hook that runs at an order to end at once, and starts no further hook', async () => {
    const { supervisor, source, serves } = await supervised({
      hooks: { success: undefined, failure: SLEEPS.join(' '), rollback: undefined, timeout: 120_000 },
    })
    await serves(1)
    source.next = { ...source.next, command: ['/no/such/program'] }
    for (let failed = 0; failed < 2; failed++)
      await expect(supervisor.upgrade()).rejects.toMatchObject({ code: 'ERR_FDB_NO_BINARY' })
    let end: SupervisorEnd | undefined
    void supervisor.ended.then(given => (end = given))
    supervisor.stop()
    await until('no version is left', () => supervisor.generation === 0)
    await nextTurn()
    expect(end).toBe(undefined)
    supervisor.stop({ now: true })
    expect(await until('it has ended', () => end)).toMatchObject({ failure: null })
  })

  it('takes a serving version that says again that it is ready for no step of the next one', async () => {
    const { supervisor, serves, started } = await supervised({})
    const first = await serves(1)
    const steps: string[] = []
    const upgraded = supervisor.upgrade({ progress: ({ phase }) => steps.push(phase) })
    const second = await started(2)
    first.events!.ready()
    expect(steps).toEqual(['started'])
    second.events!.ready()
    await upgraded
    expect(steps).toEqual(['started', 'ready', 'serving'])
  })

  it('closes the new listener of a version that could not be started: no client waits there', async () => {
    const { supervisor, source, serves } = await supervised({})
    await serves(1)
    const port = await freePort()
    const listen = [{ name: 'web', spec: parseListenerSpec(`tcp://127.0.0.1:${port}`) }]
    source.next = { ...source.next, listen, command: ['/no/such/program'] }
    await expect(supervisor.upgrade()).rejects.toMatchObject({ code: 'ERR_FDB_NO_BINARY' })
    expect(await connected(port)).toBe('ECONNREFUSED')
    source.next = { ...source.next, command: SLEEPS }
    const upgraded = supervisor.upgrade()
    // The second one could not be started.
    await serves(3)
    await upgraded
    expect(await connected(port)).toBe('connected')
  })
})
