import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { Standing } from '../../src/daemon/service/service-operations.js'
import type { WorkersSettings } from '../../src/workers/options.js'
import { WorkerPool } from '../../src/workers/pool.js'
import { UnservedListeners } from '../../src/workers/unserved-listeners.js'
import { WorkerSlot } from '../../src/workers/worker-slot.js'
import { until } from '../processes/until.js'

/** Of the control path, beside which an attempt has files while it lasts. */
const folder = mkdtempSync(join(tmpdir(), 'fdb-slots-'))
const control = join(folder, 'no.sock')

afterEach(() => vi.useRealTimers())
afterAll(() => rmSync(folder, { recursive: true }))

const NO_PROGRAM = ['/no/such/program']
const STAYS = [process.execPath, '-e', 'setInterval(() => {}, 1000)']

function settingsWith(facts: Partial<WorkersSettings> = {}): WorkersSettings {
  return {
    service: 'shop',
    control,
    command: NO_PROGRAM,
    count: 1,
    replace: 'one-by-one',
    restartDelay: 1_000,
    timeout: 10_000,
    stopTimeout: null,
    logger: SILENT,
    ...facts,
  } as WorkersSettings
}

function owned(pid = 42, generation = 1): Standing {
  return {
    owner: { pid, generation, report: null },
    phase: 'idle',
    lastFailure: null,
    bound: [],
    entries: [],
  } as never
}

function slotWith(settings: Partial<WorkersSettings> = {}) {
  let standing: Standing | null = null
  const rests: number[] = []
  const logger = { ...SILENT, warn: (facts: object) => void rests.push((facts as { ms: number }).ms) }
  const slot = new WorkerSlot(0, {
    settings: settingsWith({ logger, ...settings }),
    standing: () => standing,
  })
  const stands = (now: Standing | null) => {
    standing = now
    slot.update()
  }
  return { slot, rests, stands }
}

/** Until what was begun has come to its end, where no timer is waited for. */
async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise(resolve => setImmediate(resolve))
}

const FAKE: Parameters<typeof vi.useFakeTimers>[0] = { toFake: ['setTimeout', 'clearTimeout', 'performance'] }

/** Children of this process, by /proc. */
function children(): string[] {
  return readdirSync('/proc').filter(entry => {
    if (!/^\d+$/.test(entry)) return false
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1')
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      return Number(parent) === process.pid && state !== 'Z' && /setInterval/.test(commandOf(entry))
    } catch {
      return false
    }
  })
}

const commandOf = (pid: string) => readFileSync(`/proc/${pid}/cmdline`, 'utf8')

describe('the place of a worker', () => {
  it('rests twice as long before each start that fails, and never longer than 30 s', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, rests } = slotWith()
    slot.keep()
    for (const ms of [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      expect(rests.at(-1)).toBe(ms)
      const before = rests.length
      await vi.advanceTimersByTimeAsync(ms)
      for (let i = 0; i < 50 && rests.length === before; i++) await turns()
    }
    expect(slot.report.restarts).toBe(8)
    await slot.abandon('the test ends')
  })

  it('starts a worker at once that had served for a second, and after a rest one that had not', () => {
    vi.useFakeTimers(FAKE)
    const { slot, rests, stands } = slotWith()
    stands(owned())
    slot.keep()
    vi.advanceTimersByTime(1_500)
    stands(null)
    expect(rests).toEqual([0])
    const soon = slotWith()
    soon.stands(owned())
    soon.slot.keep()
    vi.advanceTimersByTime(100)
    soon.stands(null)
    expect(soon.rests).toEqual([1_000])
  })

  it('starts nobody where another has come during the rest', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, stands } = slotWith()
    stands(owned())
    slot.keep()
    stands(null)
    stands(owned(43, 2))
    await vi.advanceTimersByTimeAsync(60_000)
    expect(slot.report.restarts).toBe(0)
  })

  it('waits for nothing once nobody is to serve there', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, stands } = slotWith()
    stands(owned())
    slot.keep()
    stands(null)
    expect(vi.getTimerCount()).toBe(1)
    await slot.abandon('it is one too many')
    expect(vi.getTimerCount()).toBe(0)
    expect(slot.report.restarts).toBe(0)
  })
})

describe('an attempt to bring a worker', () => {
  const attemptWith = (timeout = 60_000, command: readonly string[] = STAYS) => {
    const { slot } = slotWith({ timeout, command })
    const outcome = slot.start()
    outcome.catch(() => {})
    return { slot, outcome }
  }

  it('that is cancelled has left no process when that is told', async () => {
    const { slot, outcome } = attemptWith()
    await until('it runs', () => children().length > 0)
    await turns()
    await slot.abandon('it is one too many')
    expect(children()).toEqual([])
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('whose program cannot be started leaves no file', async () => {
    const { outcome } = attemptWith(60_000, NO_PROGRAM)
    await expect(outcome).rejects.toMatchObject({ code: expect.stringMatching(/^E/) })
    await until('its files are gone', () => readdirSync(folder).length === 0)
  })

  it('that is cancelled before its process runs leaves none', async () => {
    const { slot, outcome } = attemptWith()
    await slot.abandon('it is one too many')
    expect(children()).toEqual([])
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('that has not served in time fails, and its process ends', async () => {
    const { outcome } = attemptWith(300)
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(children()).toEqual([])
  })
})

describe('a worker that fails behind its Commit', () => {
  const TELLS = `const { appendFileSync } = require('node:fs')
    const tell = text => appendFileSync(process.argv[1], text + '\\n')
    for (const signal of ['SIGTERM', 'SIGWINCH']) process.on(signal, tell)
    setInterval(() => {}, 1000)
    tell(process.pid)`

  /** An attempt whose process writes down its pid, and the signals that it gets. */
  function committed({ timeout = 60_000, stopTimeout = null as number | null }) {
    const own = mkdtempSync(join(tmpdir(), 'fdb-committed-'))
    const file = join(own, 'told')
    const lines = () => (existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [])
    const started = () => until('its process runs', () => Number(lines()[0]) || null)
    onTestFinished(async () => {
      const pid = await started()
      process.kill(pid, 'SIGKILL')
      await until('it has ended', () => children().length === 0)
      rmSync(own, { recursive: true })
    })
    const at = { standing: { ...owned(), phase: 'committing' } as Standing }
    const command = [process.execPath, '-e', TELLS, file]
    const settings = settingsWith({ command, timeout, stopTimeout })
    const slot = new WorkerSlot(0, { settings, standing: () => at.standing })
    const outcome = slot.start().catch(error => error)
    const failure = { code: 'ERR_FDB_DEADLINE', message: 'no Serving', phase: 'committing', at: 1 } as const
    /** The worker before serves again; `bound`: processes that have not left. */
    const fails = async (bound: readonly number[] = []) => {
      await started()
      at.standing = { ...owned(), bound, lastFailure: failure }
      slot.update()
      return await outcome
    }
    /** Of two signals that a process has not had yet it gets that with the lower number first: SIGTERM. */
    const signalled = async () => {
      process.kill(await started(), 'SIGWINCH')
      await until('it has had its signals', () => lines().includes('SIGWINCH'))
      return lines().slice(1)
    }
    return { lines, outcome, fails, started, signalled }
  }

  it('is not told to end: it may have clients, and get the right to serve again', async () => {
    const { fails, signalled } = committed({})
    expect(await fails()).toMatchObject({ code: 'ERR_FDB_DEADLINE', phase: 'committing' })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('is not told to end when its time is over', async () => {
    const { outcome, signalled } = committed({ timeout: 200 })
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('is ended after stopTimeout if it hangs', async () => {
    const { fails, lines, started } = committed({ stopTimeout: 1 })
    await fails([await started()])
    await until('it is told to end', () => lines().includes('SIGTERM'))
  })

  it('is not ended after stopTimeout if it has left, and only another process hangs', async () => {
    const { fails, signalled } = committed({ stopTimeout: 1 })
    await fails([process.pid])
    // A timer that elapses after that of stopTimeout.
    await new Promise(resolve => setTimeout(resolve, 5))
    expect(await signalled()).toEqual(['SIGWINCH'])
  })
})

/** A pool whose workers are told of by the test. */
function crewWith(facts: Partial<WorkersSettings> = {}, count = 2) {
  const standings = new Map<string, Standing>()
  const told: string[] = []
  const failing = new Set<string>()
  const pool = new WorkerPool(settingsWith({ count, ...facts }))
  const operationsOf = (name: string) => ({
    get standing() {
      return standings.get(name) ?? null
    },
    endProbation() {},
    command: async (order: { name: string }) => {
      told.push(`${name} ${order.name}`)
      if (failing.has(name)) throw new Error(`${name} refuses`)
      return new Uint8Array(0)
    },
  })
  const service = (name: string) => ({ operations: operationsOf(name) })
  pool.oversee({ paused: false, get: service, only: service } as never)
  for (const { name, index } of pool.slots) standings.set(name, owned(100 + index))
  return { pool, standings, told, failing }
}

describe('all workers', () => {
  it('are replaced although a probation does not end: that is waited for 10 s', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings } = crewWith({}, 1)
    const [slot] = pool.slots
    standings.set(slot!.name, { ...owned(), phase: 'probation' } as never)
    let failed: unknown
    const replaced = pool.replaceAll(pool.slots).catch(error => {
      failed = error
    })
    await vi.advanceTimersByTimeAsync(9_000)
    await turns()
    expect(failed).toBeUndefined()
    await vi.advanceTimersByTimeAsync(2_000)
    await turns()
    const late = Date.now() + 10_000
    while (failed === undefined && Date.now() < late) await turns()
    expect(String(failed)).toMatch(/old, and serving on/)
    await replaced
  })

  it('that are told to reload are all told, and a refusal of one is told', async () => {
    const { pool, told, failing } = crewWith()
    failing.add(pool.slots[0]!.name)
    await expect(pool.reloadAll()).rejects.toThrow('refuses')
    expect(told).toHaveLength(2)
  })

  it('that are too many are told once to leave, not at each look', async () => {
    const { pool, told } = crewWith()
    await pool.slots[1]!.abandon('it is one too many')
    for (let i = 0; i < 3; i++) pool.update()
    expect(told.filter(text => text.startsWith(pool.slots[1]!.name))).toHaveLength(1)
  })

  it('are killed 5 s behind the time in which they must leave; a later time changes nothing', async () => {
    vi.useFakeTimers(FAKE)
    const killed: number[] = []
    const logger = { ...SILENT, warn: (facts: object) => void killed.push((facts as { pid: number }).pid) }
    const { pool, standings } = crewWith({ logger }, 1)
    const name = pool.slots[0]!.name
    const gone = { pid: 2 ** 22 + 1, startTime: '1' }
    standings.set(name, {
      ...owned(gone.pid),
      owner: { ...gone, identity: gone, generation: 1, pidfd: null },
    } as never)
    void pool.endAll(1_000)
    await turns()
    pool.hasten(60_000)
    await vi.advanceTimersByTimeAsync(5_900)
    expect(killed).toEqual([])
    await vi.advanceTimersByTimeAsync(200)
    expect(killed).toEqual([gone.pid])
    standings.delete(name)
  })
})

describe('listeners in whose place nobody accepts', () => {
  it('are given back by a worker that served them, as soon as their own worker is there', () => {
    const entry = { role: 'listener', name: 'web', spec: 'tcp://127.0.0.1:1' }
    const slot = (index: number, standing: object) =>
      ({ index, standing, owner: (standing as Standing).owner }) as unknown as WorkerSlot
    const told: number[] = []
    const unserved = new UnservedListeners(
      async (_slot, list) => void told.push(list.length),
      () => {},
      SILENT,
    )
    const serving = slot(0, owned())
    unserved.update([serving, slot(1, { owner: null, phase: 'idle', entries: [entry] })])
    unserved.update([serving, slot(1, owned(43))])
    expect(told).toEqual([1, 0])
  })
})
