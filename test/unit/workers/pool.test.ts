import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { type Logger, SILENT } from '../../../src/base/logger.js'
import type { ServiceStanding } from '../../../src/daemon/service/service-operations.js'
import { listenerEntry } from '../../../src/holder/entry.js'
import { native } from '../../../src/kernel/native.js'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import { ROLLBACK, readStopOrder, STAND_IN, STOP, YIELD } from '../../../src/operator/service-commands.js'
import { identify, type ProcessIdentity } from '../../../src/os/process-identity.js'
import { settleWorkers, type WorkersSettings } from '../../../src/workers/options.js'
import { WorkerPool } from '../../../src/workers/pool.js'
import { peerWith } from '../../holder-support/processes.js'
import fc from '../../lanes/generated.js'
import { perLane } from '../../lanes/lane.js'
import { until } from '../../processes/until.js'
import { wholeLines } from '../../processes/whole-lines.js'

type Slot = WorkerPool['slots'][number]

/** The folder of the control path, beside which an attempt has files while it lasts. */
const folder = mkdtempSync(join(tmpdir(), 'fdb-slots-'))
const control = join(folder, 'no.sock')

afterEach(() => vi.useRealTimers())
afterAll(() => rmSync(folder, { recursive: true }))

const NO_PROGRAM = ['/no/such/program']
const STAYS = [process.execPath, '-e', 'setInterval(() => {}, 1000)']

function settingsWith(facts: Partial<WorkersSettings> = {}): WorkersSettings {
  const settings = settleWorkers({
    service: 'shop',
    workers: 1,
    control,
    restartDelay: 1_000,
    timeout: 10_000,
  })
  return { ...settings, command: NO_PROGRAM, stopTimeout: null, ...facts }
}

const NOBODY: ServiceStanding = {
  ...{
    owner: null,
    isUnfit: false,
    joinerAccepts: false,
    others: [],
    phase: 'idle',
    probationLeftMs: null,
    lastFailure: null,
    failed: null,
  },
  ...{ bound: [], missing: [], entries: [] },
}

function owned(pid = 42, generation = 1): ServiceStanding {
  return { ...NOBODY, owner: peerWith({ pid, generation }) }
}

/** A pool whose workers are told of by the test. `told`: the orders to them; `logged`: by its words. */
function poolWith(facts: Partial<WorkersSettings> = {}, logger: Logger = SILENT) {
  const standings = new Map<string, ServiceStanding>()
  const told: { worker: string; order: string; body: string }[] = []
  const failing = new Set<string>()
  const cancelled: string[] = []
  const logged: { text: string; facts: Record<string, unknown> }[] = []
  const warn = (facts: object, text: string) => void logged.push({ text, facts: { ...facts } })
  const pool = new WorkerPool(settingsWith({ logger: { ...logger, warn }, ...facts }))
  const operationsOf = (name: string) => ({
    standing: standings.get(name) ?? NOBODY,
    cancelHandoff: ({ code }: { code: string }) => {
      cancelled.push(code)
      return 'cancelled' as const
    },
    closeListeners: () => {},
    note: () => {},
    endDraining: (timeoutMs: number | null) =>
      void told.push({ worker: name, order: 'EndDrain', body: `${timeoutMs}` }),
    order: async (order: { name: string; body: Uint8Array }) => {
      told.push({ worker: name, order: order.name, body: Buffer.from(order.body).toString() })
      if (failing.has(name)) throw new Error(`${name} refuses`)
      return new Uint8Array(0)
    },
  })
  const service = (name: string) => ({ operations: operationsOf(name) })
  const services = {
    paused: false,
    get: (name: string) => (standings.has(name) ? service(name) : undefined),
    find: service,
  }
  pool.setServices(services)
  return { pool, services, standings, told, failing, logged, cancelled }
}

/** The same with workers that serve. */
function serving(count: number, facts: Partial<WorkersSettings> = {}) {
  const made = poolWith({ count, ...facts })
  for (const { name, index } of made.pool.slots) made.standings.set(name, owned(100 + index))
  return made
}

/** The only slot of a pool. `rests`: before each start. */
function slotWith(settings: Partial<WorkersSettings> = {}) {
  const rests: unknown[] = []
  const logger = { ...SILENT, warn: (facts: { ms?: number }) => void rests.push(facts.ms) }
  const { cancelled, pool, services, standings } = poolWith({ logger, ...settings })
  const slot = pool.slots[0]!
  const stands = (now: ServiceStanding | null) => {
    if (now === null) standings.delete(slot.name)
    else standings.set(slot.name, now)
    slot.update()
  }
  return { cancelled, pool, services, slot, rests, standings, stands }
}

/** Until what was begun has come to its end, where no timer is waited for. */
async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise(resolve => setImmediate(resolve))
}

const FAKE: Parameters<typeof vi.useFakeTimers>[0] = {
  toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'],
}

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

/** Processes with this argument, whatever their parent. */
function processesWith(argument: string): string[] {
  return readdirSync('/proc').filter(entry => {
    try {
      return /^\d+$/.test(entry) && commandOf(entry).split('\0').includes(argument)
    } catch {
      return false
    }
  })
}

const commandOf = (pid: string) => readFileSync(`/proc/${pid}/cmdline`, 'utf8')

/** A number: so many milliseconds pass. */
type SlotEvent = 'serves' | 'ends' | 'paused' | 'replaced' | 'goes on' | 'fewer' | 'more' | number
const SLOT_EVENTS = fc.oneof(
  fc.constantFrom<SlotEvent>('serves', 'ends', 'ends', 'paused', 'replaced', 'goes on', 'fewer', 'more'),
  fc.constantFrom<SlotEvent>(100, 1_500, 30_000),
)

describe('the place of a worker', () => {
  it('rests twice as long before each start that fails, and never longer than 30 s', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, rests } = slotWith()
    slot.keepServing()
    for (const ms of [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      expect(rests.at(-1)).toBe(ms)
      const before = rests.length
      await vi.advanceTimersByTimeAsync(ms)
      for (let i = 0; i < 50 && rests.length === before; i++) await turns()
    }
    expect(slot.report.restarts).toBe(8)
    await slot.abandon('the test ends')
  })

  it('rests longer and longer also before the starts of a worker that had served', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, rests, stands } = slotWith()
    stands(owned())
    slot.keepServing()
    vi.advanceTimersByTime(1_500)
    stands(null)
    for (const ms of [0, 1_000, 2_000, 4_000]) {
      expect(rests.at(-1)).toBe(ms)
      const before = rests.length
      await vi.advanceTimersByTimeAsync(ms)
      for (let i = 0; i < 50 && rests.length === before; i++) await turns()
    }
    await slot.abandon('the test ends')
  })

  it('starts a worker at once that had served for a second, and after a rest one that had not', () => {
    vi.useFakeTimers(FAKE)
    const { slot, rests, stands } = slotWith()
    stands(owned())
    slot.keepServing()
    vi.advanceTimersByTime(1_500)
    stands(null)
    expect(rests).toEqual([0])
    const soon = slotWith()
    soon.stands(owned())
    soon.slot.keepServing()
    vi.advanceTimersByTime(100)
    soon.stands(null)
    expect(soon.rests).toEqual([1_000])
  })

  it('starts no process if another one has come during the back-off', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, stands } = slotWith()
    stands(owned())
    slot.keepServing()
    stands(null)
    stands(owned(43, 2))
    await vi.advanceTimersByTimeAsync(60_000)
    expect(slot.report.restarts).toBe(0)
  })

  it('has no timer left when its place was given up', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, stands } = slotWith()
    stands(owned())
    slot.keepServing()
    stands(null)
    expect(vi.getTimerCount()).toBe(1)
    await slot.abandon('the number of workers was reduced')
    expect(vi.getTimerCount()).toBe(0)
    expect(slot.report.restarts).toBe(0)
  })

  it('gets a process again after any order of ends and takeovers, and none while another main process serves', async () => {
    const property = fc.asyncProperty(
      fc.array(SLOT_EVENTS, { minLength: 1, maxLength: 12 }),
      async events => {
        vi.useFakeTimers(FAKE)
        const made = serving(2)
        const slot = made.pool.slots[1]!
        for (const each of made.pool.slots) each.keepServing()
        let generation = 1
        let mayStart = true
        const happen = async (event: SlotEvent) => {
          if (event === 'serves') {
            if (mayStart) made.standings.set(slot.name, owned(200, ++generation))
          } else if (event === 'ends') made.standings.set(slot.name, NOBODY)
          else if (event === 'paused' || event === 'replaced') {
            made.services.paused = true
            mayStart = false
            if (event === 'replaced') made.pool.lose()
          } else if (event === 'goes on') {
            made.services.paused = false
            mayStart = true
          } else if (event === 'fewer') made.pool.resize(1).catch(() => {})
          else if (event === 'more') made.pool.resize(2).catch(() => {})
          else await vi.advanceTimersByTimeAsync(event)
          made.pool.update()
          await turns()
        }
        for (const event of events) {
          const { restarts } = slot.report
          await happen(event)
          if (!mayStart) expect(slot.report.restarts).toBe(restarts)
        }
        // Another attempt that this process begins is one more restart.
        for (const event of ['goes on', 'more', 'ends'] as const) await happen(event)
        const { restarts } = slot.report
        for (let i = 0; i < 8 && slot.report.restarts === restarts; i++) await happen(10_000)
        expect(slot.report.restarts).toBeGreaterThan(restarts)
        await Promise.all(made.pool.slots.map(each => each.abandon('the test ends')))
        vi.useRealTimers()
      },
    )
    await fc.assert(property, { numRuns: perLane(30, 1_000) })
  })
})

describe('a main process that another one has replaced', () => {
  /** As a daemon that hands over: it pauses, then closes its services. */
  function replaced(made: ReturnType<typeof poolWith>) {
    made.services.paused = true
    made.standings.clear()
    made.pool.lose()
  }

  it('starts no worker after a back-off that began before', async () => {
    vi.useFakeTimers(FAKE)
    const made = serving(1)
    const [slot] = made.pool.slots
    slot!.keepServing()
    made.standings.set(slot!.name, NOBODY)
    slot!.update()
    expect(vi.getTimerCount()).toBe(1)
    replaced(made)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(slot!.report.restarts).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('starts no worker while another main process may take over, and starts it if that one fails', async () => {
    vi.useFakeTimers(FAKE)
    const made = serving(1)
    const [slot] = made.pool.slots
    slot!.keepServing()
    made.standings.set(slot!.name, NOBODY)
    slot!.update()
    made.services.paused = true
    await vi.advanceTimersByTimeAsync(60_000)
    expect(slot!.report.restarts).toBe(0)
    made.services.paused = false
    made.pool.update()
    await vi.advanceTimersByTimeAsync(60_000)
    expect(slot!.report.restarts).toBeGreaterThan(0)
    await slot!.abandon('the test ends')
  })

  it('ends the process that it was starting, and starts no other one', async () => {
    const made = poolWith({ command: STAYS })
    const [slot] = made.pool.slots
    slot!.keepServing()
    const outcome = slot!.start()
    outcome.catch(() => {})
    await until('it runs', () => children().length > 0)
    replaced(made)
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
    await turns()
    expect(children()).toEqual([])
    expect(slot!.isStarting).toBe(false)
  })

  it('replaces none of the remaining workers', async () => {
    const made = serving(3, { command: STAYS })
    const work = made.pool.replaceAll(made.pool.slots)
    work.catch(() => {})
    await until('the first one is being replaced', () => children().length > 0)
    replaced(made)
    await expect(work).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
    await turns()
    expect(children()).toEqual([])
  })

  it('rejects orders that change workers, and those that wait', async () => {
    const made = serving(2)
    const [, second] = made.pool.slots
    await made.pool.resize(1)
    const waits = made.pool.resize(2)
    waits.catch(() => {})
    await turns()
    replaced(made)
    for (const order of [
      waits,
      made.pool.resize(3),
      made.pool.reloadAll(),
      made.pool.rollback(),
      made.pool.replaceAll([second!]),
    ])
      await expect(order).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED', retryable: true })
  })

  it('has no timer left if it is told again to end sooner', async () => {
    vi.useFakeTimers(FAKE)
    const made = serving(1)
    const taken = new Promise<void>(resolve => setImmediate(resolve))
    const ended = made.pool.endAll(60_000, taken)
    replaced(made)
    await turns()
    await ended
    made.pool.shortenDeadline(1_000)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('starts workers again if the other one has failed', async () => {
    const made = serving(1, { command: STAYS })
    const [slot] = made.pool.slots
    slot!.keepServing()
    replaced(made)
    made.services.paused = false
    made.standings.set(slot!.name, NOBODY)
    made.pool.update()
    await until('it runs', () => children().length > 0)
    await slot!.abandon('the test ends')
  })
})

describe('a rollback of workers', () => {
  /** Waits for the next process, which then serves in this slot. Returns all processes that do. */
  async function replacedNext(
    { pool, standings }: ReturnType<typeof serving>,
    { name }: WorkerPool['slots'][number],
    before: readonly string[] = [],
  ): Promise<string[]> {
    onTestFinished(async () => {
      for (const pid of children()) process.kill(Number(pid), 'SIGKILL')
      await until('they have ended', () => children().length === 0)
    })
    const pid = await until(`${name} starts`, () => children().find(each => !before.includes(each)))
    standings.set(name, owned(Number(pid), 2))
    pool.update()
    return [...before, pid]
  }

  /** Three workers, all replaced by one order. */
  async function replacedAll() {
    const made = serving(3, { command: STAYS })
    const work = made.pool.replaceAll(made.pool.slots)
    let pids: string[] = []
    for (const slot of made.pool.slots) pids = await replacedNext(made, slot, pids)
    await work
    return made
  }

  it('fails if some of the workers that were replaced together serve on, and names them', async () => {
    const { pool, failing } = await replacedAll()
    const [first, , third] = pool.slots
    failing.add(first!.name).add(third!.name)
    const named = [first!, third!].map(({ name, owner }) => `${name} \\(pid ${owner!.pid}\\)`).join(', ')
    await expect(pool.rollback()).rejects.toThrow(new RegExp(`shop refuses; .* serve on: ${named}$`))
  })

  /** Three workers, of which an order has replaced the first one, and starts the second one. */
  async function replacingSecond(settings: Partial<WorkersSettings> = {}) {
    const made = serving(3, { command: STAYS, ...settings })
    const [first, second, third] = made.pool.slots as [Slot, Slot, Slot]
    const work = made.pool.replaceAll(made.pool.slots)
    work.catch(() => {})
    const seen = await replacedNext(made, first)
    await until('the second one starts', () => children().length > 1)
    return { ...made, made, first, second, third, work, seen }
  }

  it('lets an upgrade replace no further worker, and is done in those that were replaced', async () => {
    const { failing, made, pool, second, seen, third, work } = await replacingSecond()
    failing.add(third.name)
    const rolledBack = pool.rollback()
    const both = await replacedNext(made, second, seen)
    await expect(rolledBack).resolves.toBeDefined()
    await expect(work).rejects.toThrow(
      /^an operator has rolled the workers back; these workers were not replaced and keep serving: shop.2 [^,]*$/,
    )
    expect(children().sort()).toEqual(both.sort())
    const again = pool.replaceAll([third])
    await replacedNext(made, third, both)
    await again
  })

  it('lets an upgrade replace the others if the rollback is refused', async () => {
    const { failing, first, made, pool, second, seen, third, work } = await replacingSecond()
    for (const { name } of [first, second, third]) failing.add(name)
    const refused = expect(pool.rollback()).rejects.toThrow(/^shop refuses$/)
    const both = await replacedNext(made, second, seen)
    await refused
    await replacedNext(made, third, both)
    await work
  })

  it('of one worker ends the upgrade, which names that one', async () => {
    const { first, made, pool, second, seen, standings, work } = await replacingSecond()
    const lastFailure = {
      code: 'ERR_FDB_SUCCESSOR_LEFT',
      message: 'it was told to end',
      phase: 'probation',
      at: 1,
    } as const
    standings.set(first.name, { ...owned(100, 1), lastFailure })
    pool.update()
    await replacedNext(made, second, seen)
    const why = /^shop was replaced, and its previous process has taken over again: it was told to end; these/
    await expect(work).rejects.toMatchObject({
      code: 'ERR_FDB_SUCCESSOR_LEFT',
      message: expect.stringMatching(why),
    })
    await expect(work).rejects.toThrow(/keep serving: shop \(pid 100\), shop.2 \(pid 102\)$/)
  })

  /** An upgrade of the workers `replaced`, whose main process has also started the worker `added`, which has no previous process. */
  async function upgradedWith(added: number, count: number, before?: ServiceStanding) {
    const made = poolWith({ count, command: STAYS })
    const { pool, standings } = made
    if (before !== undefined) standings.set(pool.slots[added]!.name, before)
    const slots = pool.slots as readonly Slot[]
    const replaced = slots.filter(({ index }) => index !== added)
    for (const { name, index } of replaced) standings.set(name, owned(100 + index))
    const started = pool.startAll({ takesOver: true })
    let pids = await replacedNext(made, slots[added]!)
    await started
    const work = pool.renew()
    work.catch(() => {})
    const replace = async (slot: Slot) => {
      pids = await replacedNext(made, slot, pids)
    }
    made.failing.add(slots[added]!.name)
    return { ...made, added: slots[added]!, replaced, replace, work }
  }

  const leaving = ({ told }: ReturnType<typeof poolWith>) =>
    told.flatMap(({ order, worker }) => (order === YIELD ? worker : []))

  it('ends workers that the upgrade has added', async () => {
    const made = await upgradedWith(2, 3)
    const { added, pool, replace, replaced, work } = made
    for (const slot of replaced) await replace(slot)
    await work
    await expect(pool.rollback()).resolves.toBeDefined()
    expect(leaving(made)).toEqual([added.name])
    expect([pool.count, pool.wantedSlots]).toEqual([2, replaced])
  })

  it.each([
    { what: 'was added before others', index: 1, before: undefined },
    { what: 'had ended before the upgrade', index: 2, before: NOBODY },
  ])(
    'fails if a worker without a previous process serves on, which $what, and names it',
    async ({ before, index }) => {
      const made = await upgradedWith(index, 3, before)
      const { added, pool, replace, replaced, work } = made
      for (const slot of replaced) await replace(slot)
      await work
      const named = new RegExp(`serve on: ${added.name} \\(pid ${added.owner!.pid}\\)$`)
      await expect(pool.rollback()).rejects.toThrow(named)
      expect(leaving(made)).toEqual([])
    },
  )

  it('has no work if the upgrade replaces none: the added worker serves on', async () => {
    const made = await upgradedWith(1, 2)
    const { added, pool, replaced, standings, work } = made
    const other = `${added.owner!.pid}`
    const pid = await until('the first one starts', () => children().find(each => each !== other))
    // The only worker of the previous version ends: its clients need the added one.
    standings.set(replaced[0]!.name, NOBODY)
    pool.update()
    process.kill(Number(pid), 'SIGKILL')
    await expect(work).rejects.toThrow(/these workers were not replaced/)
    expect([leaving(made), pool.count]).toEqual([[], 2])
    await Promise.all(pool.slots.map(slot => slot.abandon('the test ends')))
  })

  it('ends no added worker while no other one serves', async () => {
    const made = await upgradedWith(2, 3)
    const { pool, replace, replaced, standings, told, work } = made
    for (const slot of replaced) await replace(slot)
    await work
    const rolledBack = pool.rollback()
    while (!told.some(({ order }) => order === ROLLBACK)) await null
    // The previous processes end as they return.
    for (const { name } of replaced) standings.set(name, NOBODY)
    await expect(rolledBack).rejects.toThrow(/serve on: shop.2/)
    expect([leaving(made), pool.count]).toEqual([[], 3])
  })

  it('ends the added workers, which serve on while an upgrade that has replaced some workers fails', async () => {
    const made = await upgradedWith(2, 3)
    const { added, pool, replace, replaced, work } = made
    const [first, second] = replaced as [Slot, Slot]
    await replace(first)
    const others = [`${added.owner!.pid}`, `${first.owner!.pid}`]
    const pid = await until('the second one starts', () => children().find(each => !others.includes(each)))
    process.kill(Number(pid), 'SIGKILL')
    await expect(work).rejects.toThrow(/keep serving: shop.1 \(pid 101\)$/)
    expect(leaving(made)).toEqual([])
    made.failing.add(second.name)
    await expect(pool.rollback()).resolves.toBeDefined()
    expect(leaving(made)).toEqual([added.name])
  })

  it('ends none after an upgrade of which a restart has replaced all workers since', async () => {
    const made = await upgradedWith(1, 2)
    const { added, failing, pool, replace, replaced, work } = made
    await replace(replaced[0]!)
    await work
    const restart = pool.replaceAll(pool.wantedSlots)
    await replace(replaced[0]!)
    await replace(added)
    await restart
    failing.clear()
    await expect(pool.rollback()).resolves.toBeDefined()
    expect([leaving(made), pool.count]).toEqual([[], 2])
  })

  it('succeeds if one worker alone was replaced again, and returns', async () => {
    const { pool, failing, standings } = await replacedAll()
    const [first, second, third] = pool.slots
    failing.add(first!.name).add(third!.name)
    standings.set(second!.name, owned(4711, 3))
    await expect(pool.rollback()).resolves.toBeDefined()
  })

  it('keeps nothing back for the next upgrade, which replaces all workers and can be rolled back too', async () => {
    const made = await replacedAll()
    const { pool, standings } = made
    for (let round = 0; round < 2; round++) {
      await expect(pool.rollback()).resolves.toBeDefined()
      for (const { name, index } of pool.slots) standings.set(name, owned(100 + index))
      pool.update()
      let pids = children()
      const work = pool.replaceAll(pool.slots)
      for (const slot of pool.slots) pids = await replacedNext(made, slot, pids)
      await work
    }
  })

  it('succeeds if the others have returned before', async () => {
    const { pool, failing, standings } = await replacedAll()
    const [first] = pool.slots
    failing.add(first!.name)
    standings.set(first!.name, owned(4711, 1))
    await expect(pool.rollback()).resolves.toBeDefined()
  })
})

describe('a main process that is closed', () => {
  it('starts no worker whose replacement waited for the end of a probation, and refuses the order', async () => {
    const { pool, standings } = serving(1, { command: STAYS })
    const [slot] = pool.slots
    standings.set(slot!.name, { ...owned(), phase: 'probation', probationLeftMs: 60_000 })
    const replaced = pool.replaceAll(pool.slots)
    replaced.catch(() => {})
    await turns()
    const ended = pool.endAll(null)
    standings.set(slot!.name, owned())
    pool.update()
    await expect(replaced).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED', retryable: true })
    standings.clear()
    pool.update()
    await ended
    await turns()
    expect(children()).toEqual([])
  })

  it('does not say that its workers were replaced while one that has ended does not start', async () => {
    const { pool } = poolWith()
    await pool.startAll({ takesOver: true })
    expect(pool.ofPredecessor).toEqual([])
    await expect(pool.renew()).rejects.toThrow(/there is no program/)
    await pool.endAll(null)
  })

  it('starts no worker whose start waited while another main process could take over', async () => {
    const { pool, services } = poolWith({ command: STAYS })
    services.paused = true
    const started = pool.startAll({ takesOver: false })
    started.catch(() => {})
    await turns()
    const ended = pool.endAll(null)
    services.paused = false
    pool.update()
    await expect(started).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
    await ended
    expect(children()).toEqual([])
  })

  it('refuses orders that change workers, also to replace those of the previous main process', async () => {
    const { pool, standings } = serving(1)
    const ended = pool.endAll(null)
    for (const order of [
      pool.resize(2),
      pool.reloadAll(),
      pool.rollback(),
      pool.replaceAll(pool.slots),
      pool.replaceAll(pool.ofPredecessor),
    ])
      await expect(order).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED', retryable: true })
    standings.clear()
    pool.update()
    await ended
  })

  it('stops the first worker last: the others change the state through it', async () => {
    const { pool, standings, told } = poolWith({ count: 3 })
    const [first, ...others] = pool.slots.map(({ name }) => name) as [string, string, string]
    for (const [i, { name }] of pool.slots.entries()) standings.set(name, owned(100 + i))
    const ended = pool.endAll(60_000)
    const stopped = () => told.filter(({ order }) => order === STOP).map(({ worker }) => worker)
    await until('the others are told', () => stopped().length === 2)
    expect(stopped()).toEqual(others)
    standings.delete(others[0]!)
    pool.update()
    expect(stopped()).toEqual(others)
    standings.delete(others[1]!)
    pool.update()
    expect(stopped()).toEqual([...others, first])
    standings.clear()
    pool.update()
    await ended
  })

  it('stops the first worker too if another one takes long', async () => {
    const { pool, standings, told } = poolWith({ count: 2 })
    const [first, other] = pool.slots.map(({ name }) => name) as [string, string]
    standings.set(first, owned(100)).set(other, owned(101))
    const ended = pool.endAll(40)
    const stopped = () => told.filter(({ order }) => order === STOP).map(({ worker }) => worker)
    await until('both are told', () => stopped().length === 2)
    expect(stopped()).toEqual([other, first])
    standings.clear()
    pool.update()
    await ended
  })

  it('lets the first worker make the changes of another one that takes long, which it leaves for half of the time', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const { pool, standings, told } = poolWith({ count: 2, stopTimeout: 30_000 })
    const [first, other] = pool.slots.map(({ name }) => name) as [string, string]
    standings.set(first, owned(100)).set(other, owned(101))
    const ended = pool.endAll(null)
    const stopped = () =>
      told.flatMap(({ worker, order, body }) =>
        worker === first && order === STOP ? [body.includes('followed')] : [],
      )
    await vi.advanceTimersByTimeAsync(999)
    expect(stopped()).toEqual([])
    await vi.advanceTimersByTimeAsync(1)
    expect(stopped()).toEqual([true])
    await vi.advanceTimersByTimeAsync(13_999)
    expect(stopped()).toEqual([true])
    await vi.advanceTimersByTimeAsync(1)
    expect(stopped()).toEqual([true, false])
    standings.clear()
    pool.update()
    await ended
  })

  it('lets the first one leave behind the versions that it has replaced, as these change the state through it', async () => {
    const { pool, standings, told } = serving(1)
    const { name } = pool.slots[0]!
    standings.set(name, { ...owned(100), others: [peerWith({ pid: 99, generation: 1 })] })
    const ended = pool.endAll(null)
    const stopped = () =>
      told.flatMap(({ order, body }) => (order === STOP ? [body.includes('followed')] : []))
    await until('it accepts no more', () => stopped().length > 0)
    expect(stopped()).toEqual([true])
    standings.set(name, owned(100))
    pool.update()
    await until('it leaves', () => stopped().length > 1)
    expect(stopped()).toEqual([true, false])
    standings.clear()
    pool.update()
    await ended
  })

  const LOOK_MS = 250
  /** `worker`: its process ends; `timeoutMs`: the service is ordered to end within this time. */
  type Ending = { readonly afterMs: number } & ({ readonly worker: number } | { readonly timeoutMs: number })
  const ENDINGS: fc.Arbitrary<Ending[]> = fc.array(
    fc.oneof(
      fc.record({ afterMs: fc.nat(5_000), timeoutMs: fc.integer({ min: 1_000, max: 40_000 }) }),
      fc.record({ afterMs: fc.nat(5_000), worker: fc.nat(2) }),
    ),
    { maxLength: 5 },
  )

  it('hear of the earliest end that was ordered, whichever worker ends when', async () => {
    const property = fc.asyncProperty(
      fc.option(fc.integer({ min: 1_000, max: 60_000 })),
      ENDINGS,
      async (first, endings) => {
        vi.useFakeTimers(FAKE)
        const { pool, standings, told } = serving(3, { stopTimeout: 60_000 })
        const names = pool.slots.map(({ name }) => name)
        /** By worker: the end that it was told; the earliest that was ordered. */
        const ends = new Map<string, number>()
        const leaves = new Map<string, boolean>()
        let earliest = performance.now() + (first ?? Number.POSITIVE_INFINITY)
        const hear = () => {
          for (const { worker, order, body } of told.splice(0)) {
            if (order !== STOP) continue
            const { timeoutMs, isFollowed } = readStopOrder(Buffer.from(body))
            const end = performance.now() + (timeoutMs ?? Number.POSITIVE_INFINITY)
            leaves.set(worker, !isFollowed)
            // A later end changes nothing in a worker.
            ends.set(worker, Math.min(end, ends.get(worker) ?? end))
            // The order came since the last look.
            expect(ends.get(worker)).toBeLessThanOrEqual(earliest + LOOK_MS)
          }
        }
        const waits = async (ms: number) => {
          for (let left = ms; left > 0; left -= LOOK_MS) {
            await vi.advanceTimersByTimeAsync(Math.min(left, LOOK_MS))
            await turns()
            hear()
          }
        }
        const ended = pool.endAll(first)
        await turns()
        hear()
        for (const ending of endings) {
          await waits(ending.afterMs)
          if ('worker' in ending) standings.delete(names[ending.worker]!)
          else if (performance.now() < earliest) {
            earliest = Math.min(earliest, performance.now() + ending.timeoutMs)
            pool.shortenDeadline(ending.timeoutMs)
          }
          pool.update()
          hear()
        }
        if (earliest < Number.POSITIVE_INFINITY) {
          await waits(Math.max(0, earliest - performance.now()))
          for (const name of names.filter(each => standings.has(each))) {
            expect(leaves.get(name), `${name} leaves`).toBe(true)
            expect(ends.get(name)).toBeLessThanOrEqual(earliest + LOOK_MS)
          }
        }
        standings.clear()
        pool.update()
        await ended
        vi.useRealTimers()
      },
    )
    await fc.assert(property, { numRuns: perLane(25, 500) })
  })

  it('stops a worker of the previous main process that comes back only then, and repeats an order that failed', async () => {
    const { pool, standings, told, failing } = poolWith({ count: 3 })
    const [, back, fails] = pool.slots.map(({ name }) => name) as [string, string, string]
    standings.set(back, { ...NOBODY, phase: 'rebuilding', missing: [{ pid: 100, startTime: '1' }] })
    standings.set(fails, owned(101))
    failing.add(fails)
    const ended = pool.endAll(null)
    const stopped = (worker: string) => told.filter(one => one.worker === worker && one.order === STOP)
    await until('the other is told', () => stopped(fails).length === 1)
    standings.set(back, owned(100))
    for (let i = 0; i < 3; i++) pool.update()
    failing.clear()
    await until('the order is repeated', () => stopped(fails).length === 2)
    pool.update()
    expect([back, fails].map(worker => stopped(worker).length)).toEqual([1, 2])
    standings.clear()
    pool.update()
    await ended
  })
})

describe('a process of the previous main process', () => {
  const awaited = (pid: number): ServiceStanding => ({
    ...NOBODY,
    phase: 'rebuilding',
    missing: [{ pid, startTime: '1' }],
  })

  it('counts among the workers that an upgrade replaces, even if the process reconnects late', () => {
    const { pool, standings } = serving(3)
    const [, late, dead] = pool.slots
    standings.set(late!.name, awaited(4711))
    standings.set(dead!.name, NOBODY)
    expect(pool.ofPredecessor.map(({ index }) => index)).toEqual([0, 1])
  })

  it('appears in the error of an upgrade whose time ends before the process reconnects', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings } = serving(1, { command: NO_PROGRAM })
    standings.set(pool.slots[0]!.name, awaited(4711))
    const failed = expect(pool.replaceAll(pool.ofPredecessor)).rejects.toThrow(
      /not replaced and keep serving: .*\(pid 4711\)/,
    )
    await vi.advanceTimersByTimeAsync(10_000)
    await failed
  })

  it('does not end the service if it does not come back within the time limit of a start, and is then named', async () => {
    vi.useFakeTimers(FAKE)
    const errors: unknown[] = []
    const logger = { ...SILENT, error: ({ err }: { err?: unknown }) => void errors.push(err) }
    const { pool, standings, logged } = poolWith({ count: 1, timeout: 5_000, hungTimeout: null }, logger)
    const [slot] = pool.slots
    standings.set(slot!.name, awaited(4711))
    const started = pool.startAll({ takesOver: false })
    await vi.advanceTimersByTimeAsync(5_000)
    await turns()
    await started
    expect(errors).toMatchObject([
      { code: 'ERR_FDB_DEADLINE', message: expect.stringMatching(/process 4711 .* within 5000 ms/) },
    ])
    expect(slot!.report).toMatchObject({ phase: 'hung', pid: 4711 })
    expect(logged.some(({ text }) => /a worker hangs/.test(text))).toBe(true)
    await slot!.abandon('the test ends')
  })
})

describe('an attempt to bring a worker', () => {
  const attemptWith = (timeout = 60_000, command: readonly string[] = STAYS) => {
    const { slot } = slotWith({ timeout, command })
    const outcome = slot.start()
    outcome.catch(() => {})
    return { slot, outcome }
  }

  it('leaves no process after its cancellation', async () => {
    const { slot, outcome } = attemptWith()
    await until('it runs', () => children().length > 0)
    await turns()
    await slot.abandon('the number of workers was reduced')
    expect(children()).toEqual([])
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('ends the handoff of its process before it signals that', async () => {
    const { cancelled, slot, stands } = slotWith({ timeout: 60_000, command: STAYS })
    stands(owned())
    const outcome = slot.start()
    outcome.catch(() => {})
    await until('it runs', () => children().length > 0)
    await turns()
    stands({ ...owned(), phase: 'preparing' })
    const abandoned = slot.abandon('the number of workers was reduced')
    expect(cancelled).toEqual(['ERR_FDB_ABORTED'])
    await abandoned
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('leaves no file if its program cannot be started', async () => {
    const { outcome } = attemptWith(60_000, NO_PROGRAM)
    await expect(outcome).rejects.toMatchObject({ code: expect.stringMatching(/^E/) })
    await until('its files are gone', () => readdirSync(folder).length === 0)
  })

  it('leaves no process if it is cancelled before that runs', async () => {
    const { slot, outcome } = attemptWith()
    await slot.abandon('the number of workers was reduced')
    expect(children()).toEqual([])
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  })

  it('fails if the worker has not served in time, and its process ends', async () => {
    const { outcome } = attemptWith(300)
    await expect(outcome).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(children()).toEqual([])
  })
})

describe('an attempt with a time limit above the longest delay of a timer', () => {
  it('goes on: a member may add up its limits to more than that', async () => {
    const { slot } = slotWith({ timeout: 2 ** 31, command: STAYS })
    let failed = false
    const outcome = slot.start().catch(() => {
      failed = true
    })
    await until('it runs', () => children().length > 0)
    await new Promise(resolve => setTimeout(resolve, 50))
    expect(failed).toBe(false)
    await slot.abandon('the test ends')
    await outcome
  })
})

describe('an attempt whose command ends', () => {
  it('ends the processes that the command leaves behind: none of them may join later', async () => {
    const mark = join(folder, 'left-behind')
    const left = () => processesWith(mark)
    onTestFinished(() => {
      for (const pid of left()) process.kill(Number(pid), 'SIGKILL')
    })
    const [node, ...args] = STAYS
    const script = `"$0" "$@" & exit 3`
    const { slot } = slotWith({ command: ['/bin/sh', '-c', script, node!, ...args, mark] })
    const open = native.openCount()
    await expect(slot.start()).rejects.toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED' })
    await until('none of its processes is left', () => left().length === 0, 5_000)
    await until('its descriptors are closed', () => native.openCount() === open)
  })

  it('serves by a process that a service manager has started, if this process, which was stopped, reads of it late', async () => {
    vi.useFakeTimers(FAKE)
    const { slot, stands } = slotWith({ command: ['true'], timeout: 60_000 })
    stands(owned())
    const outcome = slot.start().catch(error => error)
    // The limit of the start, and the search for a process that joins.
    while (vi.getTimerCount() < 2) await turns()
    vi.advanceTimersByTime(5_000)
    stands({ ...owned(43, 2), phase: 'probation' })
    vi.useRealTimers()
    expect(await outcome).toMatchObject({ pid: 43 })
  })
})

describe('a worker that fails behind its Commit', () => {
  const TELLS = `const { appendFileSync } = require('node:fs')
    const tell = text => appendFileSync(process.argv[1], text + '\\n')
    for (const signal of ['SIGTERM', 'SIGWINCH']) process.on(signal, tell)
    setInterval(() => {}, 1000)
    tell(process.pid)`

  /** An attempt whose process writes down its pid, and the signals that it gets. */
  function committed({
    timeout = 60_000,
    stopTimeout = null as number | null,
    phase = 'committing' as ServiceStanding['phase'],
  }) {
    const own = mkdtempSync(join(tmpdir(), 'fdb-committed-'))
    const file = join(own, 'told')
    const lines = () => wholeLines(file)
    const started = () => until('its process runs', () => Number(lines()[0]) || null)
    onTestFinished(async () => {
      const pid = await started()
      process.kill(pid, 'SIGKILL')
      await until('it has ended', () => children().length === 0)
      rmSync(own, { recursive: true })
    })
    const command = [process.execPath, '-e', TELLS, file]
    const { pool, services, slot, standings, stands } = slotWith({ command, timeout, stopTimeout })
    stands({ ...owned(), phase })
    const outcome = slot.start().catch(error => error)
    const failure = { code: 'ERR_FDB_DEADLINE', message: 'no Serving', phase: 'committing', at: 1 } as const
    /** The worker before serves again; `bound`: processes that have not left. */
    const fails = async (bound: readonly number[] = []) => {
      await started()
      stands({ ...owned(), bound, lastFailure: failure })
      return await outcome
    }
    /** Returns the first of two signals: a process gets the pending one with the lower number first, SIGTERM. */
    const signalled = async () => {
      process.kill(await started(), 'SIGWINCH')
      await until('it has had its signals', () => lines().includes('SIGWINCH'))
      return lines().slice(1)
    }
    /** This main process has not heard of the worker yet. */
    const standsUnheard = (now: ServiceStanding) => standings.set(slot.name, now)
    /** This main process hands over: it pauses, hears of its worker, closes its services, and then another one has taken over. */
    const handsOver = (now: ServiceStanding) => {
      services.paused = true
      standsUnheard(now)
      pool.update()
      standings.clear()
      pool.lose()
    }
    return { lines, outcome, fails, handsOver, pool, stands, standsUnheard, started, signalled }
  }

  it('stays: it may have clients, and get the right to serve again', async () => {
    const { fails, signalled } = committed({})
    expect(await fails()).toMatchObject({ code: 'ERR_FDB_DEADLINE', phase: 'committing' })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('fails with its handoff also if that failed before the main process has heard of its start', async () => {
    const { outcome, stands } = committed({ timeout: 5_000 })
    const lastFailure = {
      code: 'ERR_FDB_DEADLINE',
      message: 'no Serving',
      phase: 'committing',
      at: 1,
    } as const
    stands({ ...owned(), bound: [], lastFailure })
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_DEADLINE', phase: 'committing' })
  })

  it('fails with its handoff also if it was cancelled when that was too late', async () => {
    const { fails, pool, started } = committed({})
    await started()
    void pool.slots[0]!.abandon('the number of workers was reduced')
    await turns()
    expect(await fails()).toMatchObject({
      code: 'ERR_FDB_DEADLINE',
      message: expect.stringMatching(/no Serving/),
    })
  })

  it('stays when its time is over', async () => {
    vi.useFakeTimers(FAKE)
    const { lines, outcome, signalled } = committed({ timeout: 200 })
    while (lines().length === 0) await turns()
    let failed: unknown
    void outcome.then(error => {
      failed = error
    })
    await vi.advanceTimersByTimeAsync(5_000)
    await turns()
    expect(failed).toBeUndefined()
    await vi.advanceTimersByTimeAsync(300)
    vi.useRealTimers()
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays if it only accepts when another main process takes over', async () => {
    const { pool, signalled, stands, started } = committed({})
    stands({ ...owned(await started(), 2), isUnfit: true })
    pool.lose()
    await turns()
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays also if that one takes over before this process has heard of the start', async () => {
    const { pool, signalled, stands } = committed({})
    stands({ ...owned(1, 2), isUnfit: true })
    pool.lose()
    await turns()
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays if it accepts before its Commit, because this process did not answer, and its handoff fails', async () => {
    const { outcome, signalled, stands, started } = committed({ phase: 'preparing' })
    await started()
    const failure = { code: 'ERR_FDB_DEADLINE', message: 'no Prepared', phase: 'preparing', at: 1 } as const
    stands({ ...owned(), joinerAccepts: true, lastFailure: failure })
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_DEADLINE', phase: 'preparing' })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays if it accepts before its Commit when its time is over, and may serve then', async () => {
    vi.useFakeTimers(FAKE)
    const { lines, outcome, signalled, stands } = committed({ phase: 'preparing', timeout: 200 })
    while (lines().length === 0) await turns()
    stands({ ...owned(), phase: 'preparing', joinerAccepts: true })
    await vi.advanceTimersByTimeAsync(300)
    await turns()
    const pid = Number(children()[0])
    stands({ ...owned(pid, 2), phase: 'probation' })
    vi.useRealTimers()
    expect(await outcome).toMatchObject({ pid })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('serves although this process, which was stopped, reads of it behind the time for its Commit', async () => {
    vi.useFakeTimers(FAKE)
    const { lines, outcome, signalled, stands } = committed({ phase: 'committing', timeout: 200 })
    while (lines().length === 0) await turns()
    stands({ ...owned(), phase: 'committing' })
    await vi.advanceTimersByTimeAsync(300)
    await turns()
    const pid = Number(children()[0])
    vi.advanceTimersByTime(60_000)
    stands({ ...owned(pid, 2), phase: 'probation' })
    vi.useRealTimers()
    expect(await outcome).toMatchObject({ pid })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('ends after stopTimeout if it hangs', async () => {
    const { fails, lines, started } = committed({ stopTimeout: 1 })
    await fails([await started()])
    await until('it is told to end', () => lines().includes('SIGTERM'))
  })

  it('stays if it serves, unheard, when another main process takes over', async () => {
    const { outcome, pool, signalled, standsUnheard, started } = committed({ phase: 'idle' })
    const pid = await started()
    standsUnheard(owned(pid, 2))
    pool.lose()
    expect(await outcome).toMatchObject({ pid })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays if it begins to serve while this main process hands over', async () => {
    const { handsOver, outcome, signalled, started } = committed({ phase: 'idle' })
    const pid = await started()
    handsOver(owned(pid, 2))
    expect(await outcome).toMatchObject({ pid })
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays after stopTimeout if it has left, of which this process, which was stopped, reads late', async () => {
    vi.useFakeTimers(FAKE)
    const { fails, lines, signalled, stands } = committed({ stopTimeout: 1_000 })
    while (lines().length === 0) await turns()
    await fails([Number(lines()[0])])
    vi.advanceTimersByTime(2_000)
    stands(owned())
    await turns()
    vi.useRealTimers()
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays after stopTimeout if it hangs and another main process has taken over', async () => {
    const { fails, pool, signalled, started } = committed({ stopTimeout: 1 })
    await fails([await started()])
    pool.lose()
    // A timer that elapses after that of stopTimeout.
    await new Promise(resolve => setTimeout(resolve, 5))
    expect(await signalled()).toEqual(['SIGWINCH'])
  })

  it('stays after stopTimeout if it has left, and only another process hangs', async () => {
    const { fails, signalled } = committed({ stopTimeout: 1 })
    await fails([process.pid])
    // A timer that elapses after that of stopTimeout.
    await new Promise(resolve => setTimeout(resolve, 5))
    expect(await signalled()).toEqual(['SIGWINCH'])
  })
})

describe('all workers', () => {
  it('may include one that is being started again if they must be a new number: that start is waited for', async () => {
    const { pool, standings } = poolWith({ command: STAYS })
    const [slot] = pool.slots
    const again = slot!.start()
    again.catch(() => {})
    await until('it is being started', () => children().length > 0)
    onTestFinished(async () => {
      for (const pid of children()) process.kill(Number(pid), 'SIGKILL')
      await until('its process has ended', () => children().length === 0)
    })
    const resized = pool.resize(1).then(
      () => 'serves',
      error => error.code,
    )
    await turns()
    standings.set(slot!.name, owned(100))
    slot!.update()
    await again
    expect(await resized).toBe('serves')
  })

  it('stay in their probation: a replacement waits for it, and 10 s more', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings } = serving(1)
    const [slot] = pool.slots
    standings.set(slot!.name, { ...owned(), phase: 'probation', probationLeftMs: 5_000 })
    let failed: unknown
    const replaced = pool.replaceAll(pool.slots).catch(error => {
      failed = error
    })
    await vi.advanceTimersByTimeAsync(14_000)
    await turns()
    expect(failed).toBeUndefined()
    await vi.advanceTimersByTimeAsync(2_000)
    await turns()
    const late = Date.now() + 10_000
    while (failed === undefined && Date.now() < late) await turns()
    expect(String(failed)).toMatch(/were not replaced and keep serving/)
    await replaced
  })

  it('get their successors when the previous processes have let their listeners go, or 10 s later', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings } = serving(1)
    const [slot] = pool.slots
    const start = vi.spyOn(slot!, 'start').mockResolvedValue({ pid: 200, generation: 2 })
    const bound = { ...owned(100), bound: [99] }
    standings.set(slot!.name, bound)
    const replaced = pool.replaceAll(pool.slots)
    await vi.advanceTimersByTimeAsync(9_000)
    expect(start).not.toHaveBeenCalled()
    standings.set(slot!.name, owned(100))
    pool.update()
    await replaced
    standings.set(slot!.name, bound)
    const again = pool.replaceAll(pool.slots)
    await vi.advanceTimersByTimeAsync(10_000)
    await again
    expect(start).toHaveBeenCalledTimes(2)
  })

  it('get one successor each, one after the other', async () => {
    const { pool, standings } = serving(2, { command: STAYS })
    const [first, second] = pool.slots
    onTestFinished(async () => {
      for (const pid of children()) process.kill(Number(pid), 'SIGKILL')
      await until('their processes have ended', () => children().length === 0)
    })
    const replaced = pool.replaceAll(pool.slots)
    replaced.catch(() => {})
    await until('the first one is being replaced', () => children().length === 1)
    expect([first!.isStarting, second!.isStarting]).toEqual([true, false])
    standings.set(first!.name, owned(200, 2))
    pool.update()
    await until('another one is being replaced', () => children().length === 2)
    expect([first!.isStarting, second!.isStarting]).toEqual([false, true])
    standings.set(second!.name, owned(201, 2))
    pool.update()
    await replaced
    expect(children()).toHaveLength(2)
  })

  it('count as replaced when the new processes can write', async () => {
    const { pool, standings } = serving(1, { command: STAYS })
    const [slot] = pool.slots
    onTestFinished(async () => {
      for (const pid of children()) process.kill(Number(pid), 'SIGKILL')
      await until('its process has ended', () => children().length === 0)
    })
    const outcome: unknown[] = []
    const replaced = pool.replaceAll(pool.slots).then(
      () => outcome.push('replaced'),
      error => outcome.push(error.code),
    )
    await until('it is being replaced', () => children().length === 1)
    standings.set(slot!.name, { ...owned(200, 2), isUnfit: true })
    pool.update()
    await turns()
    expect(outcome).toEqual([])
    standings.set(slot!.name, owned(200, 2))
    pool.update()
    await replaced
    expect(outcome).toEqual(['replaced'])
  })

  it('may be started again while a replacement waits for a probation: it waits for that start too', async () => {
    const { pool, standings } = serving(1, { command: STAYS })
    const [slot] = pool.slots
    standings.set(slot!.name, { ...owned(), phase: 'probation', probationLeftMs: 60_000 })
    const outcome: unknown[] = []
    const replaced = pool.replaceAll(pool.slots).then(
      () => outcome.push('replaced'),
      error => outcome.push(error.code),
    )
    onTestFinished(async () => {
      for (const pid of children()) process.kill(Number(pid), 'SIGKILL')
      await until('its processes have ended', () => children().length === 0)
    })
    await turns()
    const again = slot!.start()
    again.catch(() => {})
    await until('it is being started', () => children().length === 1)
    standings.set(slot!.name, owned())
    pool.update()
    await turns()
    expect(outcome).toEqual([])
    standings.set(slot!.name, owned(100, 2))
    pool.update()
    await again
    await until('it is replaced', () => children().length === 2)
    standings.set(slot!.name, owned(101, 3))
    pool.update()
    await replaced
    expect(outcome).toEqual(['replaced'])
  })

  it('all hear of a reload, and a refusal of one is told', async () => {
    const { pool, told, failing } = serving(2)
    failing.add(pool.slots[0]!.name)
    await expect(pool.reloadAll()).rejects.toThrow('refuses')
    expect(told).toHaveLength(2)
  })

  it('hear once that they are too many, not at each look', async () => {
    const { pool, told } = serving(2)
    await pool.slots[1]!.abandon('the number of workers was reduced')
    for (let i = 0; i < 3; i++) pool.update()
    expect(told.filter(({ order }) => order === YIELD)).toMatchObject([{ worker: pool.slots[1]!.name }])
  })

  it('do not include one that was told to leave if they must be more again: its end is waited for', async () => {
    const { pool, standings, told } = serving(2)
    const [, other] = pool.slots
    await pool.resize(1)
    expect(told.filter(({ order }) => order === YIELD)).toMatchObject([{ worker: other!.name }])
    let outcome = 'pending'
    const resized = pool.resize(2).then(
      () => (outcome = 'serves'),
      () => (outcome = 'started anew'),
    )
    await turns()
    expect(outcome).toBe('pending')
    standings.set(other!.name, NOBODY)
    pool.update()
    // The program of these workers cannot be started.
    expect(await resized).toBe('started anew')
    await other!.abandon('the test ends')
  })

  it('replace one that was told to leave and does not if they must be more again', async () => {
    vi.useFakeTimers(FAKE)
    const { pool } = serving(2)
    await pool.resize(1)
    let failed: unknown
    const resized = pool.resize(2).catch(error => {
      failed = error
    })
    await turns()
    await vi.advanceTimersByTimeAsync(11_000)
    const late = Date.now() + 10_000
    while (failed === undefined && Date.now() < late) await turns()
    expect(String(failed)).toMatch(/no.such.program/)
    await resized
    await pool.slots[1]!.abandon('the test ends')
  })

  it('get a signal through their pidfds, and a process that has got the pid of one gets none', async () => {
    const { pool, standings, logged } = poolWith({ count: 3 })
    const sleepers = [0, 1, 2].map(() => spawn('sleep', ['60'], { stdio: 'ignore' }))
    onTestFinished(() => {
      for (const sleeper of sleepers) sleeper.kill('SIGKILL')
    })
    await Promise.all(sleepers.map(sleeper => once(sleeper, 'spawn')))
    const [own, reused, foreign] = sleepers.map(({ pid }) => pid!)
    const names = pool.slots.map(({ name }) => name)
    const stand = (at: number, pid: number, identity: ProcessIdentity) =>
      standings.set(names[at]!, { ...NOBODY, owner: peerWith({ pid, identity }) })
    stand(0, own!, identify(own!))
    stand(1, reused!, { pid: reused!, startTime: '1' })
    // In another PID namespace: the pid is the one that it has there.
    stand(2, foreign!, { pid: foreign! })
    const ended = once(sleepers[0]!, 'exit')
    pool.signalAll('SIGUSR1')
    expect(await ended).toEqual([null, 'SIGUSR1'])
    await new Promise(resolve => setTimeout(resolve, 50))
    expect(sleepers.slice(1).map(({ signalCode }) => signalCode)).toEqual([null, null])
    expect(logged).toMatchObject([{ text: 'a worker did not get a signal', facts: { worker: 2 } }])
  })

  it('die 5 s behind the time in which they must leave; a later time changes nothing', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, logged } = serving(1)
    const name = pool.slots[0]!.name
    const gone = { pid: 2 ** 22 + 1, startTime: '1' }
    standings.set(name, { ...NOBODY, owner: peerWith({ pid: gone.pid, identity: gone }) })
    void pool.endAll(1_000)
    await turns()
    pool.shortenDeadline(60_000)
    await vi.advanceTimersByTimeAsync(5_900)
    expect(logged).toEqual([])
    await vi.advanceTimersByTimeAsync(200)
    await turns()
    expect(logged).toMatchObject([{ text: expect.stringMatching(/it is killed/), facts: { pid: gone.pid } }])
    standings.delete(name)
  })

  it.each<[string, string, (pool: WorkerPool) => void]>([
    ['to end', STOP, pool => void pool.endAll(null)],
    ['to leave to the others', YIELD, pool => void pool.resize(1)],
    ['to serve the listeners of others', STAND_IN, pool => pool.update()],
  ])('get an order %s again soon if it has failed, also when nothing else changes', async (_, name, give) => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, told, failing } = serving(2)
    const worker = pool.slots[1]!.name
    failing.add(worker)
    give(pool)
    await turns()
    const orders = () => told.filter(({ order, worker: to }) => to === worker && order === name).length
    expect(orders()).toBe(1)
    for (let again = 0; again < 2; again++) {
      const before = orders()
      await vi.advanceTimersByTimeAsync(250)
      expect(orders() - before).toBeOneOf([1, 2, 3])
    }
    standings.clear()
    pool.update()
    await turns()
  })

  it('live if they have stopped to serve in time, of which this process, which was stopped, reads late', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, logged } = serving(1, { stopTimeout: 2_000 })
    const name = pool.slots[0]!.name
    const drains = peerWith({ pid: 2 ** 22 + 1, identity: { pid: 2 ** 22 + 1, startTime: '1' } })
    standings.set(name, { ...NOBODY, owner: drains })
    const ended = pool.endAll(null)
    await turns()
    vi.advanceTimersByTime(3_000)
    standings.set(name, { ...NOBODY, others: [drains] })
    pool.update()
    await turns()
    expect(logged).toEqual([])
    standings.clear()
    pool.update()
    await ended
  })
})

describe('the end of all workers leaves no timer that would kill a process', () => {
  const ends: [string, (made: ReturnType<typeof serving>, takeOver: () => void) => void][] = [
    ['another main process has taken over', (_made, takeOver) => takeOver()],
    [
      'they have ended',
      ({ pool, standings }) => {
        standings.clear()
        pool.update()
      },
    ],
  ]
  for (const [when, happens] of ends)
    it.each([
      ['with a time limit', 1_000],
      ['as each is configured', null],
    ])(`when ${when} (%s)`, async (_how, timeoutMs) => {
      vi.useFakeTimers(FAKE)
      const made = serving(2, { stopTimeout: 2_000 })
      let takeOver!: () => void
      const takenOver = new Promise<void>(resolve => {
        takeOver = resolve
      })
      const ended = made.pool.endAll(timeoutMs, takenOver)
      await turns()
      made.pool.shortenDeadline(500)
      expect(vi.getTimerCount()).toBeGreaterThan(0)
      happens(made, takeOver)
      await ended
      expect(vi.getTimerCount()).toBe(0)
    })
})

describe('listeners in whose place nobody accepts', () => {
  it('return to the main process from a worker that served them, as soon as their own worker is there', async () => {
    const { pool, standings, told } = serving(2)
    const spec = parseListenerSpec('tcp://127.0.0.1:0')
    const fd = bindListener(spec)
    onTestFinished(() => fd.close())
    const other = pool.slots[1]!.name
    standings.set(other, { ...NOBODY, entries: [listenerEntry('web', spec, fd)] })
    pool.update()
    standings.set(other, owned(43))
    pool.update()
    const orders = () => told.filter(({ worker }) => worker === pool.slots[0]!.name)
    expect(orders().map(({ order, body }) => [order, [...body.matchAll(/web/g)].length])).toEqual([
      [STAND_IN, 1],
      [STAND_IN, 0],
    ])
  })

  it('get their orders again if the next main process has failed', () => {
    const { pool, services, told } = serving(1)
    pool.update()
    pool.update()
    expect(told).toHaveLength(1)
    pool.lose()
    services.paused = false
    pool.update()
    expect(told.map(({ order }) => order)).toEqual([STAND_IN, STAND_IN])
  })
})

describe('workers that hang', () => {
  it('show together, and the first, which decides the changes of all, is replaced at once', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, logged } = serving(2)
    for (const { owner } of standings.values()) owner!.sendsHeartbeats = true
    await pool.startAll({ takesOver: false })
    const hung: boolean[][] = []
    const update = pool.update.bind(pool)
    vi.spyOn(pool, 'update').mockImplementation(() => {
      hung.push(pool.slots.map(slot => slot.isHung))
      update()
    })
    const look = async (ms: number) => {
      await vi.advanceTimersByTimeAsync(ms)
      await turns()
    }
    for (let ms = 0; ms < 1_750; ms += 250) await look(250)
    expect(logged).toEqual([])
    for (let n = 0; n < 3 && hung.length === 0; n++) await look(250)
    expect(hung[0]).toEqual([true, true])
    const replaced = logged.filter(({ text }) => text === 'a worker that hangs is replaced')
    expect(replaced).toMatchObject([{ facts: { worker: 0, pid: 100, ms: expect.any(Number) } }])
    expect(replaced[0]!.facts.ms).toBeGreaterThan(2_000)
    await pool.slots[0]!.whenSettled()
    void pool.endAll(null)
    standings.clear()
    pool.update()
  })

  it('have their successor started once for each process that hangs; if that fails, the process is killed', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, logged } = serving(2, { hungTimeout: 5_000, command: NO_PROGRAM })
    const slot = pool.slots[1]!
    const starts = vi.spyOn(slot, 'start')
    standings.get(pool.slots[0]!.name)!.owner!.sendsHeartbeats = false
    await pool.startAll({ takesOver: false })
    const told = () => logged.filter(({ facts }) => facts.worker === 1).map(({ text }) => text)
    const story = async () => {
      const hanging = spawn(STAYS[0]!, STAYS.slice(1))
      onTestFinished(() => void hanging.kill('SIGKILL'))
      const ended = once(hanging, 'exit')
      const pid = hanging.pid!
      const owner = peerWith({ pid, identity: identify(pid)! })
      owner.sendsHeartbeats = true
      standings.set(slot.name, { ...NOBODY, owner })
      logged.length = 0
      starts.mockClear()
      for (let ms = 0; ms < 15_000; ms += 250) {
        await vi.advanceTimersByTimeAsync(250)
        await turns()
        await slot.whenSettled()
      }
      return { ended, seen: { starts: starts.mock.calls.length, told: told() } }
    }
    const inOrder = {
      starts: 1,
      told: [
        'a worker hangs: other workers accept on its listeners',
        'a worker that hangs is replaced',
        'a worker that hangs is killed',
      ],
    }
    for (let n = 1; n <= 2; n++) {
      const { ended, seen } = await story()
      expect([n, seen]).toEqual([n, inOrder])
      expect(await ended).toEqual([null, 'SIGKILL'])
    }
    void pool.endAll(null)
    standings.clear()
    pool.update()
  })

  it('show also to a main process that serves again, because the next one has failed', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings } = serving(2, { hungTimeout: null })
    await pool.startAll({ takesOver: false })
    pool.lose()
    pool.update()
    for (const { owner } of standings.values()) owner!.sendsHeartbeats = true
    for (let ms = 0; ms < 3_000; ms += 250) {
      await vi.advanceTimersByTimeAsync(250)
      await turns()
    }
    expect(pool.slots.map(({ isHung }) => isHung)).toEqual([true, true])
    void pool.endAll(null)
    standings.clear()
    pool.update()
  })

  it('get no connections of a surplus worker', async () => {
    const { pool } = serving(3)
    const [first, second, third] = pool.slots
    void third!.abandon('the number of workers was reduced')
    expect(pool.receiver(third!.name)).toBe(first!.owner)
    first!.isHung = true
    expect(pool.receiver(third!.name)).toBe(second!.owner)
    second!.isHung = true
    expect(pool.receiver(third!.name)).toBeNull()
  })

  it('and are surplus are killed behind the limit: they do not hear that they must leave', async () => {
    vi.useFakeTimers(FAKE)
    const { pool, standings, logged } = serving(2, { hungTimeout: 5_000 })
    const gone = { pid: 2 ** 22 + 1, startTime: '1' }
    const owner = peerWith({ pid: gone.pid, identity: gone })
    owner.sendsHeartbeats = true
    standings.set(pool.slots[1]!.name, { ...NOBODY, owner })
    await pool.startAll({ takesOver: false })
    await pool.resize(1)
    const killed = () => logged.filter(({ text }) => text === 'a worker that hangs is killed')
    const look = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += 250) {
        await vi.advanceTimersByTimeAsync(250)
        await turns()
      }
    }
    await look(4_500)
    expect(killed()).toEqual([])
    await look(1_500)
    expect(killed()).toMatchObject([{ facts: { worker: 1, pid: gone.pid } }])
    void pool.endAll(null)
    standings.clear()
    pool.update()
  })
})
