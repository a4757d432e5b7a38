import { execFileSync } from 'node:child_process'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { EventFile, eventPath } from '../../src/events/event-file.js'
import { EventLog } from '../../src/events/event-log.js'
import { KEPT_EVENTS, type ServiceEvent } from '../../src/events/events.js'
import { eventOf } from '../../src/events/phase-events.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'

const freeing = vi.hoisted(() => ({ isRefused: false }))
vi.mock(import('../../src/kernel/index.js'), async original => {
  const kernel = await original()
  return {
    ...kernel,
    freeStart: (...range) => {
      // As for a file to which its administrator lets programs only append (chattr +a).
      if (freeing.isRefused) throw Object.assign(new Error('fallocate'), { code: 'EPERM' })
      kernel.freeStart(...range)
    },
  }
})

const logs: EventLog[] = []

function open(generation = 1): EventLog {
  const log = new EventLog(SILENT, { service: 'shop', generation })
  logs.push(log)
  return log
}

/** Another version, which has got the file of `log`. */
function successor(log: EventLog): EventLog {
  const next = open(2)
  next.adopt(log.items()[0]!.fd.dup())
  return next
}

function all(log: EventLog, from = 1): ServiceEvent[] {
  const { events, next, end } = log.read(from)
  return end ? [...events] : [...events, ...all(log, next)]
}

afterEach(() => {
  for (const log of logs.splice(0)) log.close()
})

describe('an event log', () => {
  it('records an event once if the memory of old ones cannot be freed', () => {
    freeing.isRefused = true
    onTestFinished(() => {
      freeing.isRefused = false
    })
    const log = open()
    const count = KEPT_EVENTS + 200
    for (let epoch = 1; epoch <= count; epoch++) log.note('upgrade.ordered', { epoch })
    expect(log.read(count - 99).events.map(({ epoch }) => epoch)).toEqual(
      Array.from({ length: 100 }, (_, i) => count - 99 + i),
    )
    expect(log.next).toBe(count + 1)
  })

  it('numbers the events of all versions in one sequence, whichever of them writes', () => {
    const writers = fc.array(fc.record({ second: fc.boolean(), epoch: fc.nat() }), { maxLength: 600 })
    fc.assert(
      fc.property(writers, written => {
        const first = open()
        first.note('service.started')
        const second = successor(first)
        for (const { second: isSecond, epoch } of written)
          (isSecond ? second : first).note('upgrade.ordered', { epoch })
        const events = all(first)
        expect(events.map(({ number }) => number)).toEqual(events.map((_, i) => i + 1))
        expect(events[0]).toMatchObject({ type: 'service.started', pid: process.pid, generation: 1 })
        expect(
          events.slice(1).map(({ epoch = 0, generation }) => ({ second: generation === 2, epoch })),
        ).toEqual(written)
        expect(all(second)).toEqual(events)
        first.close()
        second.close()
      }),
      { numRuns: perLane(20, 100) },
    )
  })

  it('keeps the last 1,000, and says which is the first', () => {
    const log = open()
    for (let i = 0; i < KEPT_EVENTS + 300; i++) log.note('reload.ordered', { epoch: i })
    expect(log.read(1)).toMatchObject({ first: 301, end: false })
    const events = all(log)
    expect(events.map(({ number }) => number)).toEqual(Array.from({ length: KEPT_EVENTS }, (_, i) => i + 301))
    expect(events[0]).toMatchObject({ epoch: 300 })
    expect(log.read(5_000)).toMatchObject({ events: [], first: 301, next: 1_301, end: true })
  })

  it('shortens a reason that does not fit', () => {
    const log = open()
    const by = { pid: 1, uid: 0, gid: 0, executable: `/${'x'.repeat(200)}` }
    log.note('upgrade.failed', { code: 'ERR_FDB_SPAWN', reason: '\u{1F600}\n'.repeat(2_000), by })
    log.note('upgrade.failed', { code: 'ERR_FDB_SPAWN', reason: 'short', by })
    const [long, short] = all(log)
    expect(long).toMatchObject({ code: 'ERR_FDB_SPAWN', by })
    expect(long!.reason!.length).toBeGreaterThan(50)
    expect(short).toMatchObject({ reason: 'short', by })
  })

  it('publishes the events of this process, with their numbers', () => {
    const published: unknown[] = []
    const listener = (event: unknown) => void published.push(event)
    subscribe('fd-broker:event', listener)
    try {
      const log = open()
      log.note('service.started')
      successor(log).note('handoff.offered', { process: 7 })
      expect(published).toEqual(all(log))
    } finally {
      unsubscribe('fd-broker:event', listener)
    }
  })

  it('gives a follower each event once, also those before its close', async () => {
    const log = open()
    log.note('service.started')
    const other = successor(log)
    const got: number[] = []
    const following = (async () => {
      for await (const { number } of log.follow(1)) got.push(number)
    })()
    for (let i = 0; i < 20; i++) {
      other.note('reload.ordered')
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    other.note('stop.ordered')
    log.close()
    await following
    expect(got).toEqual(Array.from({ length: 22 }, (_, i) => i + 1))
  })

  it('ends for a follower whose signal aborts', async () => {
    const log = open()
    const abort = new AbortController()
    setTimeout(() => abort.abort(), 30)
    for await (const _event of log.follow(1, abort.signal)) expect.unreachable()
    expect(log.read(1)).toMatchObject({ log: '', events: [], first: 1, next: 1, end: true })
  })
})

describe('the event of a change of phase', () => {
  it('names the new phase, or how the handoff has ended', () => {
    expect(eventOf('idle', 'offering')).toBe('handoff.offered')
    expect(eventOf('preparing', 'committing')).toBe('handoff.committed')
    expect(eventOf('probation', 'released')).toBe('handoff.kept')
    expect(eventOf('probation', 'idle')).toBe('handoff.kept')
    expect(eventOf('committing', 'idle')).toBe('handoff.serving')
    expect(eventOf('freezing', 'idle')).toBeNull()
    expect(eventOf('committing', 'returning')).toBeNull()
  })

  it.each([
    ['committing', 'rollback.serving'],
    ['probation', 'rollback.serving'],
    ['rebuilding', 'rollback.serving'],
    // The state goes on in a new segment.
    ['idle', null],
    // The handoff was given up before the Commit.
    ['preparing', null],
  ] as const)('tells of a return from %s: %s', (earlier, event) => {
    expect(eventOf('returning', 'idle', earlier)).toBe(event)
  })
})

describe('a file with a path', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-events-'))
  afterAll(() => rmSync(folder, { recursive: true }))
  const at = (path: string, logger = SILENT) => {
    const origin = { service: 'shop', generation: 1 }
    const log = new EventLog(logger, origin, new EventFile({ path, logger }))
    logs.push(log)
    return log
  }

  it('goes on in the next log, also if a disk has taken a part of a record', () => {
    const path = eventPath(join(folder, 'shop.sock'))
    const first = at(path)
    for (let i = 0; i < KEPT_EVENTS + 100; i++) first.note('reload.ordered', { epoch: i })
    first.close()
    appendFileSync(path, '{"type":"re')
    const next = at(path)
    next.note('service.started')
    expect(next.read(1)).toMatchObject({ first: 102 })
    const events = all(next)
    expect(events.map(({ number }) => number)).toEqual(Array.from({ length: KEPT_EVENTS }, (_, i) => i + 102))
    expect(events.slice(-2)).toMatchObject([{ epoch: KEPT_EVENTS + 99 }, { type: 'service.started' }])
  })

  it('stays in memory if the path is another kind of file, and says so once', () => {
    const warn = vi.fn()
    const path = eventPath(join(folder, 'daemon.sock'), 'a/b')
    expect(path).toBe(join(folder, 'daemon.sock.a%2Fb.events'))
    mkdirSync(path)
    const log = at(path, { ...SILENT, warn })
    for (let i = 0; i < 2; i++) log.note('reload.ordered')
    expect(all(log)).toHaveLength(2)
    expect(warn.mock.calls).toEqual([
      [{ err: expect.objectContaining({ code: 'EISDIR' }), path }, expect.stringContaining('in memory only')],
    ])
  })
})

describe('a file on a full disk', () => {
  /** A small file system of its own, and what takes the rest of its room. */
  function disk(): { path: string; fill(): void; free(): void } {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-full-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder])
    onTestFinished(() => {
      execFileSync('umount', ['-l', folder])
      rmSync(folder, { recursive: true })
    })
    const rest = join(folder, 'rest')
    const fill = () => {
      try {
        writeFileSync(rest, Buffer.alloc(65_536))
      } catch {
        // The disk is full now.
      }
    }
    return { path: join(folder, 'shop.sock.events'), fill, free: () => rmSync(rest) }
  }
  const at = (path: string, warn = vi.fn()) => {
    const logger = { ...SILENT, warn }
    const log = new EventLog(logger, { service: 'shop', generation: 1 }, new EventFile({ path, logger }))
    logs.push(log)
    return log
  }
  const ROOT = process.geteuid?.() === 0

  it.runIf(ROOT)('gets what happened meanwhile when there is room; hooks do not wait for it', async () => {
    const { path, fill, free } = disk()
    const warn = vi.fn()
    const log = at(path, warn)
    const recorded: [number, number | undefined][] = []
    log.recorded = ({ number, epoch }) => recorded.push([number, epoch])
    log.note('service.started', { epoch: 1 })
    fill()
    const expected = Array.from({ length: 8 }, (_, i) => [i + 1, i + 1])
    for (let epoch = 2; epoch <= 8; epoch++) log.note('reload.ordered', { epoch })
    expect(recorded).toEqual(expected)
    expect(all(log).length).toBeLessThan(8)
    expect(warn.mock.calls).toEqual([
      [{ err: expect.objectContaining({ code: 'ENOSPC' }), type: 'reload.ordered' }, expect.any(String)],
    ])
    free()
    await until('the events are written', () => all(log).length === 8)
    expect(all(log).map(({ number, epoch }) => [number, epoch])).toEqual(expected)
    expect(recorded).toEqual(expected)
  })

  it.runIf(ROOT)(
    'gets it at the next event, or when the log is closed; what it does not get is counted',
    () => {
      const { path, fill, free } = disk()
      const [first, second] = [vi.fn(), vi.fn()]
      const log = at(path, first)
      log.note('service.started')
      const next = at(path, second)
      next.adopt(log.items()[0]!.fd.dup())
      fill()
      for (let i = 0; i < 8; i++) log.note('reload.ordered')
      for (let i = 0; i < 3; i++) next.note('stop.ordered')
      next.close()
      expect(second).toHaveBeenLastCalledWith({ count: 3 }, expect.stringContaining('are lost'))
      free()
      log.note('upgrade.ordered')
      expect(all(log).map(({ type }) => type)).toEqual([
        'service.started',
        ...Array(8).fill('reload.ordered'),
        'upgrade.ordered',
      ])
      expect(first).toHaveBeenCalledTimes(1)
    },
  )
})

describe('the file of several logs', () => {
  it('has one sequence, in which each event names its service', () => {
    const main = open()
    const worker = new EventLog(SILENT, { service: 'shop.1', generation: 1 }, main.file)
    logs.push(worker)
    const created = vi.fn()
    worker.created = created
    main.note('service.started')
    worker.note('handoff.offered')
    main.close()
    worker.note('handoff.committed')
    expect(created).toHaveBeenCalledTimes(1)
    expect(all(worker).map(({ number, service, type }) => `${number} ${service} ${type}`)).toEqual([
      '1 shop service.started',
      '2 shop.1 handoff.offered',
      '3 shop.1 handoff.committed',
    ])
  })

  it('keeps events that happen before the file of a killed process arrives, behind those of that file', () => {
    const killed = open()
    for (let i = 0; i < 3; i++) killed.note('reload.ordered')
    const main = open(2)
    main.file.hold()
    main.note('service.started')
    expect(main.read(1)).toMatchObject({ log: '', events: [] })
    main.adopt(killed.items()[0]!.fd.dup())
    main.note('stop.ordered')
    expect(all(killed).map(({ type }) => type)).toEqual([
      ...Array(3).fill('reload.ordered'),
      'service.started',
      'stop.ordered',
    ])
    const alone = open(2)
    alone.file.hold()
    alone.note('service.started')
    alone.file.begin()
    expect(all(alone)).toMatchObject([{ number: 1, type: 'service.started' }])
  })
})
