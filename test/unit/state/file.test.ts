import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import files, { type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { FileCopy, finishAtOnce } from '../../../src/state/file/copy.js'
import { type StateFileOptions, stateFileSettings } from '../../../src/state/file/files.js'
import { loadStateFile } from '../../../src/state/file/load.js'
import { recordsOfFile } from '../../../src/state/file/records.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import {
  bytes,
  DEFAULT_LIMITS,
  defineSection,
  Segment,
  type StateLimits,
  StateLog,
} from '../../fixtures/state.js'
import { bytesOf, routeSchema, segmentOf } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'
import fc from '../../lanes/generated.js'
import { perLane } from '../../lanes/lane.js'
import { OwnTimers } from '../../processes/own-timers.js'
import { until } from '../../processes/until.js'

const SECRET = defineSection({ version: 1, codec: bytes(), secret: true })
const quiet = { info() {}, warn() {} }

/** The prototype of all handles. */
async function allHandles(): Promise<FileHandle> {
  const handle = await files.open('/dev/null', 'r')
  const all: FileHandle = Object.getPrototypeOf(handle)
  await handle.close()
  return all
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'fdb-file-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** A process's log and its file, as far as this goes in one process. */
class Writer {
  readonly log: StateLog
  readonly file: StateFile
  readonly warnings: string[] = []
  mayWrite = true

  constructor(path: string, options: Partial<StateFileOptions> = {}, service = '') {
    this.log = new StateLog()
    const logger = { info() {}, warn: (_: object, message: string) => this.warnings.push(message) }
    this.file = new StateFile(
      stateFileSettings({ path, ...options }, service),
      this.log,
      logger,
      () => this.mayWrite,
    )
    onTestFinished(() => {
      this.file.stop()
      this.log.close()
    })
  }

  static serve(path: string, options: Partial<StateFileOptions> = {}, service = ''): Writer {
    const writer = new Writer(path, options, service)
    writer.log.startWriting(Segment.create(1))
    writer.file.serve()
    return writer
  }

  get routes() {
    return this.log.section('routes', routeSchema)
  }

  /** Goes on in a segment of the next epoch, as after a handoff that failed. */
  renew(epoch: number): void {
    this.log.segments.at(-1)!.seal()
    this.log.startWriting(Segment.create(epoch))
    this.file.serve()
  }
}

interface Loading {
  damaged?: 'refuse' | 'prefix'
  limits?: Partial<StateLimits>
  warn?: (facts: object) => void
  service?: string
}

async function load(
  path: string,
  { damaged = 'refuse', limits = {}, warn = () => {}, service = '' }: Loading = {},
) {
  const log = new StateLog({ limits })
  onTestFinished(() => log.close())
  const segment = Segment.create(1)
  await loadStateFile(stateFileSettings({ path, damaged }, service), segment, log.limits, { ...quiet, warn })
  await log.adopt(segment)
  log.startWriting(segment)
  return log
}

async function refusal(work: Promise<unknown>): Promise<FdbError> {
  return await work.then(
    () => expect.fail('it was not refused'),
    error => error,
  )
}

describe('the state file', () => {
  it('holds what the log holds, and gives it back to the first process after a reboot', async () => {
    const path = join(folder(), 'state')
    const { log, file, routes } = Writer.serve(path)
    for (let i = 0; i < 100; i++) await routes.put(`k${i % 10}`, { to: `u${i}` }, { request: `r${i}` })
    await routes.delete('k3')
    await routes.bulk(Array.from({ length: 5000 }, (_, i) => ({ key: `b${i}`, value: { to: 'b' } })))
    await file.flush()
    expect(file.status()).toMatchObject({
      ok: true,
      writing: true,
      behindBytes: 0,
      syncedSequence: log.sequence,
    })
    const after = await load(path)
    expect(after.digests()).toEqual(log.digests())
    expect(after.schemas()).toEqual(log.schemas())
    // A request that is tried again after the reboot is known.
    await after.section('routes', routeSchema).put('k9', { to: 'again' }, { request: 'r99' })
    expect(after.section('routes').size).toBe(log.section('routes').size)
    expect(after.position.digest).toBe(log.position.digest)
  })

  it('follows each change within milliseconds, and the disk within `sync`', async () => {
    const path = join(folder(), 'state')
    const { log, file, routes } = Writer.serve(path, { sync: 200 })
    await routes.put('a', { to: 'a' })
    await until('the change is in the file', () => file.status().sequence === log.sequence)
    await until('the change is on the disk', () => file.status().syncedSequence === log.sequence)
    await routes.put('b', { to: 'b' })
    await until('the next one too', () => file.status().syncedSequence === log.sequence)
    expect((await load(path)).position.digest).toBe(log.position.digest)
  })

  it('reaches the disk within `sync` of the last change, whenever that came after those before', async () => {
    const SYNC_MS = 40
    /** The writes since the last sync. */
    let unsynced = 0
    const all = await allHandles()
    const { write, datasync } = all
    const spies = [
      vi.spyOn(all, 'write').mockImplementation(async function (
        this: FileHandle,
        ...given: Parameters<FileHandle['write']>
      ) {
        const written = await Reflect.apply(write, this, given)
        unsynced++
        return written
      }),
      vi.spyOn(all, 'datasync').mockImplementation(async function (this: FileHandle) {
        const before = unsynced
        await datasync.call(this)
        unsynced -= before
      }),
    ]
    onTestFinished(() => spies.forEach(spy => void spy.mockRestore()))
    // Each change follows the one before after this time, or when that is synced; then none follows.
    const pauses = fc.array(
      fc.oneof(fc.integer({ min: 0, max: 3 * SYNC_MS }), fc.constant('synced' as const)),
      {
        minLength: 1,
        maxLength: 4,
      },
    )
    const property = fc.asyncProperty(pauses, async times => {
      const { log, file, routes } = Writer.serve(join(folder(), 'state'), { sync: SYNC_MS })
      const synced = () =>
        until(
          'the last change is on the disk',
          () => file.status().syncedSequence === log.sequence,
          2_000,
          () => file.status(),
        )
      unsynced = 0
      for (const [n, time] of times.entries()) {
        await routes.put('a', { to: `${n}` })
        if (time === 'synced') await synced()
        else await new Promise(resolve => setTimeout(resolve, time))
      }
      await routes.put('a', { to: 'last' })
      await synced()
      // Also what tells after a power cut how much was synced.
      await until('no write is unsynced', () => unsynced === 0, 2_000)
      file.stop()
      log.close()
    })
    const examples = [
      ['synced', 50],
      ['synced', 60, 60],
      ['synced', 'synced', 20],
    ] as const
    await fc.assert(property, {
      numRuns: perLane(5, 200),
      examples: examples.map(times => [[...times]]),
      endOnFailure: true,
    })
  })

  it('reaches the disk with each write when told to, and never when told so', async () => {
    const always = Writer.serve(join(folder(), 'state'), { sync: 'always' })
    const never = Writer.serve(join(folder(), 'state'), { sync: 'never' })
    for (const { file, routes } of [always, never]) {
      await routes.put('a', { to: 'a' })
      await until('it is installed', () => file.status().sequence === 1)
      await routes.put('b', { to: 'b' })
      await until('it follows', () => file.status().sequence === 2)
    }
    await until('it is synced', () => always.file.status().syncedSequence === 2)
    expect(never.file.status().syncedSequence).toBe(1)
  })

  it('goes on over a compaction and over epochs of the same process', async () => {
    const path = join(folder(), 'state')
    const writer = Writer.serve(path)
    const { log, file, routes } = writer
    for (let epoch = 2; epoch < 8; epoch++) {
      for (let i = 0; i < 30; i++) await routes.put(`k${i}`, { to: `${epoch}` })
      if (epoch % 2 === 0) await file.flush()
      writer.renew(epoch)
      await log.compact()
      await routes.put('last', { to: `${epoch}` })
    }
    await file.flush()
    expect((await load(path)).position.digest).toBe(log.position.digest)
    expect(readdirSync(join(path, '..'))).toEqual(['state'])
  })

  it('stays whole, and continues, when the segment that it ends in is sealed without another change and merged', async () => {
    const path = join(folder(), 'state')
    const elder = Writer.serve(path)
    await elder.routes.put('a', { to: 'a' })
    await elder.file.flush()
    const next = new Writer(path)
    await next.log.adopt(elder.log.segments[0]!.readOnly())
    next.file.prepare()
    await until('it has all of it', () => readdirSync(join(path, '..')).length === 2)
    elder.log.segments[0]!.seal()
    elder.file.stop()
    await next.log.catchUp()
    next.log.startWriting(Segment.create(2))
    next.file.serve()
    await until('it is the state file', () => next.file.status().writing)
    const inode = statSync(path).ino
    await next.log.compact()
    expect(next.log.segments.map(({ kind }) => kind)).toEqual(['snapshot', 'epoch'])
    expect(next.file.status()).toMatchObject({ ok: true, behindBytes: 0, sequence: 1 })
    await next.routes.put('b', { to: 'b' })
    await next.file.flush()
    expect(statSync(path).ino).toBe(inode)
    expect((await load(path)).position.digest).toBe(next.log.position.digest)
  })

  it('goes on where a bulk was cut by the end of the one before, which is merged before another change is made', async () => {
    const path = join(folder(), 'state')
    const elder = new Writer(path)
    elder.log.startWriting(Segment.create(1))
    await elder.routes.put('a', { to: 'a' })
    const cut = refusal(elder.log.section('raw').bulk(large(20_000)))
    // In the turn in which it has begun: a later look may find all of it.
    while (elder.log.sequence <= 10) await nextTurn()
    elder.log.segments[0]!.seal()
    elder.log.endWriting(new FdbError('ERR_FDB_FENCED', 'over'))
    await cut
    const next = new Writer(path)
    await next.log.adopt(elder.log.segments[0]!.readOnly())
    next.log.startWriting(Segment.create(2))
    next.file.serve()
    await next.file.flush()
    await next.log.compact()
    await next.routes.put('b', { to: 'b' })
    await next.file.flush()
    expect((await load(path)).position.digest).toBe(next.log.position.digest)
  })

  it('becomes a smaller file when the log in memory was compacted', async () => {
    const path = join(folder(), 'state')
    const writer = Writer.serve(path)
    const raw = writer.log.section('raw')
    for (let i = 0; i < 40; i++) await raw.put('same', Buffer.alloc(1_000_000, i))
    await writer.file.flush()
    expect(statSync(path).size).toBeGreaterThan(39_000_000)
    writer.renew(2)
    await writer.log.compact()
    await raw.put('other', Buffer.alloc(1))
    await writer.file.flush()
    expect(statSync(path).size).toBeLessThan(2_000_000)
    expect((await load(path)).position.digest).toBe(writer.log.position.digest)
  })

  it('belongs to the successor from the moment it serves: one that was replaced writes to a file without a name', async () => {
    const path = join(folder(), 'state')
    const elder = Writer.serve(path)
    await elder.routes.put('a', { to: 'a' })
    await elder.file.flush()
    const inode = statSync(path).ino
    const next = new Writer(path)
    await next.log.adopt(elder.log.segments[0]!.readOnly())
    next.file.prepare()
    await until('it has written its own beside', () => readdirSync(join(path, '..')).length === 2)
    await elder.routes.put('b', { to: 'b' })
    elder.log.segments[0]!.seal()
    await next.log.catchUp()
    next.log.startWriting(Segment.create(2))
    next.file.serve()
    await next.routes.put('c', { to: 'c' })
    await next.file.flush()
    expect(statSync(path).ino).not.toBe(inode)
    const whole = await load(path)
    expect(whole.position.digest).toBe(next.log.position.digest)
    // The elder was stopped just before a write, and goes on: it believes that it may.
    elder.file.serve()
    await until('it has noticed', () => elder.file.status().lastError !== null)
    elder.file.stop()
    expect((await load(path)).position.digest).toBe(next.log.position.digest)
  })

  it('stays with the successor that prepares it beside, when the process before lists the files and is replaced', async () => {
    const path = join(folder(), 'state')
    const elder = new Writer(path)
    elder.log.startWriting(Segment.create(1))
    await elder.routes.put('a', { to: 'a' })
    const successor = await FileCopy.create(path, { secret: false, service: '' })
    onTestFinished(() => successor.close())
    const { readdir } = files
    const list = vi.spyOn(files, 'readdir').mockImplementation(
      untyped(async (at: string) => {
        const names = await readdir(at)
        // The second time: the elder's own file is written.
        if (names.length === 2) elder.mayWrite = false
        return names
      }),
    )
    onTestFinished(() => list.mockRestore())
    elder.file.serve()
    await until('its own file is gone', () => !elder.mayWrite && readdirSync(join(path, '..')).length < 2)
    expect(readdirSync(join(path, '..'))).toEqual([basename(successor.path)])
  })

  it('has what a flush waits for, whenever the right to write ends meanwhile and comes back', async () => {
    const path = join(folder(), 'state')
    const { file, log, routes } = Writer.serve(path)
    for (let turns = 0; turns < 12; turns++) {
      await routes.put(`a${turns}`, { to: 'a' })
      const flushed = file.flush()
      for (let turn = 0; turn < turns; turn++) await nextTurn()
      file.stop()
      file.serve()
      await routes.put(`b${turns}`, { to: 'b' })
      await Promise.all([flushed, file.flush()])
      expect(file.status().syncedSequence).toBe(log.sequence)
    }
  })

  it('follows the log of a process that takes over again, although a pass waited for its turn when that process lost the right to write', async () => {
    const path = join(folder(), 'state')
    const { file, log, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    // A slow disk: the next pass waits for the end of this one.
    let written = () => {}
    const slow = vi.spyOn(FileCopy.prototype, 'copyAll').mockImplementationOnce(
      () =>
        new Promise(resolve => {
          written = () => resolve(true)
        }),
    )
    onTestFinished(() => slow.mockRestore())
    await routes.put('b', { to: 'b' })
    await until('a pass writes', () => slow.mock.calls.length === 1)
    using timers = new OwnTimers()
    const due = () => timers.places.some(place => place.includes('schedulePass'))
    await routes.put('c', { to: 'c' })
    expect(due()).toBe(true)
    await until('the next pass waits', () => !due())
    file.stop()
    written()
    await nextTurn()
    file.serve()
    await routes.put('d', { to: 'd' })
    await until('the file has all changes', () => file.status().sequence === log.sequence)
  })

  it('does not fail if another process has removed the file that was prepared', async () => {
    const path = join(folder(), 'state')
    const { file, log, routes, warnings } = new Writer(path)
    log.startWriting(Segment.create(1))
    await routes.put('a', { to: 'a' })
    const beside = () => readdirSync(dirname(path)).map(name => join(dirname(path), name))
    file.prepare()
    await until('it is there', () => beside().some(each => statSync(each).size > 0))
    // A process whose own file takes long removes those of others, see removeOthers().
    for (const each of beside()) rmSync(each)
    file.serve()
    await file.flush()
    expect(warnings).toEqual([])
    expect((await load(path)).position.digest).toBe(log.position.digest)
  })

  it('stays untouched by a process that may not write, and that one’s own file beside is removed when it stops', async () => {
    const path = join(folder(), 'state')
    const writer = new Writer(path)
    writer.mayWrite = false
    writer.log.startWriting(Segment.create(1))
    await writer.routes.put('a', { to: 'a' })
    writer.file.prepare()
    await until('it has written beside', () => readdirSync(join(path, '..')).length === 1)
    writer.file.serve()
    await expect(writer.file.flush()).rejects.toThrow(expect.objectContaining({ code: 'ERR_FDB_FENCED' }))
    writer.file.stop()
    await until('nothing is left', () => readdirSync(join(path, '..')).length === 0)
  })

  it('has no leftovers of processes that were killed beside it', async () => {
    const path = join(folder(), 'state')
    for (const name of ['.new-0123abcd', '.new-other', '.damaged-1']) writeFileSync(`${path}${name}`, 'x')
    const { file, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    expect(readdirSync(join(path, '..'))).toEqual(['state', 'state.damaged-1', 'state.new-other'])
  })

  it('comes back when another program removes it or puts another in its place', async () => {
    const path = join(folder(), 'state')
    const { log, file, routes } = Writer.serve(path, { sync: 20 })
    let told = 0
    file.onChange = ({ ok }) => (told += ok ? 1 : 0)
    for (const harm of [
      () => rmSync(path),
      () => renameSync(path, `${path}-2`),
      () => {
        rmSync(path)
        writeFileSync(path, 'something else')
      },
    ]) {
      await routes.put('a', { to: `${told}` })
      await file.flush()
      const before = told
      harm()
      await routes.put('b', { to: `${told}` })
      await until('it is whole again', () => told > before)
      expect((await load(path)).position.digest).toBe(log.position.digest)
    }
  })
})

describe('a state file of more than one segment may have', () => {
  const limits = { segmentBytes: 256 * 1024 }
  const some = (name: string) =>
    Array.from({ length: 200 }, (_, i) => ({ key: `${name}${i}`, value: Buffer.alloc(1000, name) }))

  /** A file of two segments, which are within the limit. */
  async function written(second: string): Promise<Writer & { path: string }> {
    const path = join(folder(), 'state')
    const writer = Writer.serve(path)
    const raw = writer.log.section('raw')
    await raw.put('once', Buffer.alloc(1), { request: 'once' })
    await raw.bulk(some('a'))
    writer.renew(2)
    await raw.bulk(some(second))
    await raw.put('last', Buffer.alloc(1))
    await writer.file.flush()
    for (const segment of writer.log.segments) expect(segment.size()).toBeLessThan(limits.segmentBytes)
    expect(statSync(path).size).toBeGreaterThan(1.5 * limits.segmentBytes)
    return Object.assign(writer, { path })
  }

  it('reads nevertheless where the values in force need less', async () => {
    const { path, log } = await written('a')
    const after = await load(path, { limits })
    expect(after.position.digest).toBe(log.position.digest)
    const { sequence } = after
    await after.section('raw').put('once', Buffer.alloc(1), { request: 'once' })
    expect(after.sequence).toBe(sequence)
  })

  it('causes an error with the numbers where they do not, and nothing changes', async () => {
    const { path } = await written('b')
    const whole = readFileSync(path)
    expect(await refusal(load(path, { limits }))).toMatchObject({
      code: 'ERR_FDB_STATE_LIMIT',
      details: { limit: 'segmentBytes', most: limits.segmentBytes },
    })
    expect(readFileSync(path)).toEqual(whole)
  })

  it('and that is damaged is refused, or gives what stands before the damage', async () => {
    const { path, log } = await written('a')
    const bytes = readFileSync(path)
    bytes[bytes.lastIndexOf('last')]! ^= 4
    writeFileSync(path, bytes)
    expect((await refusal(load(path, { limits }))).code).toBe('ERR_FDB_STATE_DAMAGED')
    const before = await load(path, { limits, damaged: 'prefix' })
    expect([before.section('raw').size, log.section('raw').size]).toEqual([201, 202])
  })
})

describe('the reported content of a state file', () => {
  it('equals the content: without the next segment, and without a part of a bulk', async () => {
    const path = join(folder(), 'state')
    const { log } = new Writer(path)
    log.startWriting(Segment.create(1))
    await log.section('routes', routeSchema).put('a', { to: 'a' })
    await log.section('routes', routeSchema).put('b', { to: 'b' })
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await log.section('routes', routeSchema).put('c', { to: 'c' })
    const copy = await FileCopy.create(path, { secret: false, service: '' })
    onTestFinished(() => copy.close())
    await copy.copySome(log)
    await copy.sync()
    expect([copy.sequence, copy.syncedSequence]).toEqual([2, 2])
    await copy.copySome(log)
    expect([copy.sequence, copy.syncedSequence]).toEqual([3, 2])
    await copy.sync()
    // A bulk of this size is under way still when the copy has all that there is.
    const bulk = log.section('raw').bulk(large(200_000))
    await until('parts of it are in the log', () => log.sequence > 10)
    while ((await copy.copySome(log)) !== 0);
    await copy.sync()
    expect([log.completeSequence, copy.sequence, copy.syncedSequence]).toEqual([3, 3, 3])
    await bulk
    while ((await copy.copySome(log)) !== 0);
    await copy.sync()
    expect([copy.sequence, copy.syncedSequence]).toEqual([log.sequence, log.sequence])
  })

  it('reaches a caller that asks for it to be on the disk, also while a bulk is appended', async () => {
    const path = join(folder(), 'state')
    const { log, file, routes } = Writer.serve(path, { sync: 'never' })
    await routes.put('a', { to: 'a' })
    const bulk = log.section('raw').bulk(large(50_000))
    await until('parts of it are in the log', () => log.sequence > 10)
    await file.flush()
    expect(file.status().syncedSequence).toBeLessThanOrEqual(log.completeSequence)
    await bulk
    await file.flush()
    expect(file.status().syncedSequence).toBe(log.sequence)
  })
})

function large(count: number) {
  return Array.from({ length: count }, (_, i) => ({ key: `k${i}`, value: Buffer.alloc(9) }))
}

describe('a change that is to be on the disk', () => {
  it('fails before it is made where there is no file, or another process writes it', async () => {
    const without = new StateLog()
    without.startWriting(Segment.create(1))
    const nowhere = without.section('routes', routeSchema).put('a', { to: 'a' }, { durable: true })
    expect(await refusal(nowhere)).toMatchObject({ code: 'ERR_FDB_OPTION' })
    expect(without.sequence).toBe(0)
    without.close()
    const writer = Writer.serve(join(folder(), 'state'))
    writer.log.disk = writer.file
    writer.log.endWriting(new FdbError('ERR_FDB_FENCED', 'another serves', { retryable: true }))
    const changes = [
      writer.routes.put('a', { to: 'a' }, { durable: true }),
      writer.routes.delete('a', { durable: true }),
      writer.routes.bulk([{ key: 'a', value: { to: 'a' } }], { durable: true }),
      writer.routes.update('a', () => ({ to: 'a' }), { durable: true }),
    ]
    for (const change of changes) expect(await refusal(change)).toMatchObject({ code: 'ERR_FDB_FENCED' })
    expect(writer.log.sequence).toBe(0)
  })

  it('differs from one that was not made, when another process writes the file meanwhile', async () => {
    const writer = Writer.serve(join(folder(), 'state'))
    writer.log.disk = writer.file
    await writer.routes.put('a', { to: 'a' }, { durable: true })
    expect(writer.file.status().syncedSequence).toBe(1)
    writer.log.pauseWriting()
    const waits = writer.routes.put('b', { to: 'b' }, { durable: true })
    writer.mayWrite = false
    writer.log.resumeWriting()
    const error = await refusal(waits)
    expect(error).toMatchObject({ code: 'ERR_FDB_STATE_FILE', retryable: true, details: { made: true } })
    expect(error.message).toMatch(/the change was made/)
    expect(writer.routes.has('b')).toBe(true)
  })
})

it('a state file has the last changes if its process is stopped, while it finishes the file, for longer than that may take', async () => {
  const path = join(folder(), 'state')
  const { file, log, routes } = Writer.serve(path)
  await routes.put('a', { to: 'a' })
  const finished = file.finish(400)
  // As SIGSTOP does.
  for (const from = performance.now(); performance.now() - from < 450; );
  await finished
  expect((await load(path)).position.digest).toBe(log.position.digest)
})

describe('a state file that is written no more leaves no timer', () => {
  it.each<[string, (writer: Writer, path: string) => Promise<void> | void]>([
    ['when it is finished', ({ file }) => file.finish(60_000)],
    ['when it is stopped', ({ file }) => file.stop()],
    [
      'when it is finished after another process has got the right to write',
      writer => {
        writer.mayWrite = false
        return writer.file.finish(60_000)
      },
    ],
    [
      'when it cannot be finished',
      ({ file }, path) => {
        rmSync(dirname(path), { recursive: true })
        return file.finish(60_000)
      },
    ],
    [
      'when it is served again, and is finished',
      writer => {
        writer.file.stop()
        writer.renew(2)
        return writer.file.finish(60_000)
      },
    ],
  ])('%s', async (_when, end) => {
    using timers = new OwnTimers()
    const path = join(folder(), 'state')
    const writer = Writer.serve(path, { sync: 'always' })
    await writer.routes.put('a', { to: 'x' })
    await writer.file.flush()
    await writer.routes.put('b', { to: 'y' })
    await end(writer, path)
    await until(
      'no timer is left',
      () => timers.places.length === 0,
      10_000,
      () => timers.places,
    )
  })
})

describe('the owner of a state file', () => {
  async function fileOf(service: string): Promise<string> {
    const path = join(folder(), 'state')
    const { file, routes } = Writer.serve(path, {}, service)
    await routes.put('a', { to: service })
    await file.flush()
    file.stop()
    return path
  }

  it('stands in it: another service’s is neither read nor replaced, with a message that names both', async () => {
    const path = await fileOf('shop')
    const before = readFileSync(path)
    const error = await refusal(load(path, { damaged: 'prefix', service: 'bank' }))
    expect(error).toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    expect(error.message).toMatch(/belongs to service "shop", not to "bank".*another path/)
    const other = Writer.serve(path, {}, 'bank')
    await other.routes.put('b', { to: 'bank' })
    expect(await refusal(other.file.flush())).toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    expect(other.file.status()).toMatchObject({ ok: false, lastError: { code: 'ERR_FDB_STATE_FILE' } })
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(join(path, '..'))).toEqual(['state'])
    rmSync(path)
    await until('its own is there', () => other.file.status().ok)
    await refusal(load(path, { service: 'shop' }))
  })

  it('has written it: a file of another program is not replaced, also at the end of the process', async () => {
    const path = join(folder(), 'state')
    writeFileSync(path, 'the hosts of a network\n')
    const writer = Writer.serve(path)
    await writer.routes.put('a', { to: 'a' })
    const error = await refusal(writer.file.flush())
    expect(error).toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    expect(error.message).toMatch(/the file .*state is not replaced, .*give another path/)
    expect(writer.file.status()).toMatchObject({ ok: false, lastError: { code: 'ERR_FDB_STATE_FILE' } })
    const atEnd = () =>
      finishAtOnce(path, writer.log, { secret: false, service: '' }, { file: null, installing: null })
    expect(atEnd).toThrow('fd-broker has not written it')
    expect(readFileSync(path, 'utf8')).toBe('the hosts of a network\n')
    expect(readdirSync(join(path, '..'))).toEqual(['state'])
  })

  it('stands in no file that an earlier release wrote: any service may have it', async () => {
    expect((await load(await fileOf(''), { service: 'shop' })).section('routes').size).toBe(1)
    expect((await load(await fileOf('shop'), { service: 'shop' })).section('routes').size).toBe(1)
    expect((await load(await fileOf('shop'))).section('routes').size).toBe(1)
  })
})

describe('the readers of a state file', () => {
  const mode = (path: string) => (statSync(path).mode & 0o777).toString(8)

  it('include its owner and its group, as the umask says, without secrets', async () => {
    const path = join(folder(), 'state')
    const { file, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    expect(mode(path)).toBe((0o640 & ~process.umask()).toString(8))
  })

  it('include only its owner with secrets, also when they come later, and when the file was open before', async () => {
    const path = join(folder(), 'state')
    writeFileSync(path, '')
    chmodSync(path, 0o644)
    const { log, file, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    expect(mode(path)).toBe('640')
    const inode = statSync(path).ino
    await log.section('keys', SECRET).put('key', Buffer.from('do not tell'))
    await file.flush()
    expect(mode(path)).toBe('600')
    // Another file, as a program may have opened the first one.
    expect(statSync(path).ino).not.toBe(inode)
    const next = Writer.serve(path)
    await next.log.section('keys', SECRET).put('key', Buffer.from('do not tell'))
    await next.file.flush()
    expect(mode(path)).toBe('600')
  })

  it('stays who it was where that is fewer', async () => {
    const path = join(folder(), 'state')
    writeFileSync(path, '', { mode: 0o600 })
    const { file, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    expect(mode(path)).toBe('600')
  })

  it('exclude links, other users’ files, and files that every user may write', async () => {
    const path = join(folder(), 'state')
    const { file, routes } = Writer.serve(path)
    await routes.put('a', { to: 'a' })
    await file.flush()
    file.stop()
    const link = `${path}-link`
    symlinkSync(path, link)
    expect((await refusal(load(link))).message).toMatch(/symbolic link/)
    chmodSync(path, 0o666)
    expect((await refusal(load(path))).message).toMatch(/writable by every user/)
    mkdirSync(`${path}-folder`)
    expect((await refusal(load(`${path}-folder`))).message).toMatch(/not a regular file/)
    if (process.geteuid?.() === 0) {
      chmodSync(path, 0o600)
      chownSync(path, 1234, 1234)
      expect((await refusal(load(path))).message).toMatch(
        /belongs to user 1234, but this process runs as user 0/,
      )
    }
    const writer = Writer.serve(link)
    await writer.routes.put('b', { to: 'b' })
    expect((await refusal(writer.file.flush())).message).toMatch(/symbolic link/)
    expect(writer.file.status()).toMatchObject({ ok: false, lastError: { code: 'ERR_FDB_STATE_FILE' } })
  })
})

describe('a state file that was not written whole', () => {
  /** A file with a synced part and a part behind it. Digests by sequence. */
  async function written() {
    const path = join(folder(), 'state')
    const { log, file, routes } = Writer.serve(path, { sync: 'never' })
    const digests = new Set(['0'.repeat(64)])
    for (let i = 0; i < 20; i++) {
      await routes.put(`k${i % 5}`, { to: `u${i}` })
      digests.add(log.position.digest)
    }
    await file.flush()
    const synced = { size: statSync(path).size, digest: log.position.digest }
    for (let i = 0; i < 20; i++) {
      await routes.put(`k${i % 7}`, { to: `v${i}` })
      digests.add(log.position.digest)
    }
    await until('all of it is there', () => file.status().sequence === log.sequence)
    return { path, whole: readFileSync(path), digests, synced, log }
  }

  it('cut at any byte behind the last sync gives a state that there was after it; cut before that, it is refused', async () => {
    const { path, whole, digests, synced } = await written()
    for (let cut = whole.length; cut >= 60; cut -= 7) {
      truncateSync(path, cut)
      if (cut >= synced.size) expect(digests).toContain((await load(path)).position.digest)
      else expect(await refusal(load(path))).toMatchObject({ code: 'ERR_FDB_STATE_DAMAGED' })
    }
  })

  it('reads up to the damage where the disk had not been given the rest', async () => {
    const { path, whole, synced, digests } = await written()
    for (let at = synced.size; at < whole.length; at += 11) {
      const warnings: object[] = []
      const bytes = Buffer.from(whole)
      // As a power cut may leave it: a block that was not written, and later ones that were.
      bytes.fill(at % 2 === 0 ? 0 : 0xa5, at, Math.min(at + 40, bytes.length))
      writeFileSync(path, bytes)
      const log = await load(path, { warn: facts => warnings.push(facts) })
      expect(digests).toContain(log.position.digest)
      expect(warnings).toMatchObject([{ path }])
    }
    writeFileSync(path, whole.subarray(0, synced.size))
    expect((await load(path)).position.digest).toBe(synced.digest)
  })

  it('causes an error, and stays as it is, where bytes on the disk are damaged', async () => {
    const { path, whole, synced } = await written()
    const damage = synced.size - 30
    const bytes = Buffer.from(whole)
    bytes[damage]! ^= 4
    writeFileSync(path, bytes)
    const { code, message, details } = await refusal(load(path))
    expect(code).toBe('ERR_FDB_STATE_DAMAGED')
    expect(message).toContain(path)
    expect(message).toMatch(
      /offset \d+, after sequence \d+: .*Nothing was changed.*state repair --file .*'prefix'/,
    )
    expect(details.offset).toBeGreaterThan(damage - 100)
    expect(details.offset).toBeLessThanOrEqual(damage)
    expect(readFileSync(path)).toEqual(bytes)
    expect(readdirSync(join(path, '..'))).toEqual(['state'])
  })

  it('gives what stands before the damage to who asks for it, and is kept aside', async () => {
    const { path, whole, digests } = await written()
    const bytes = Buffer.from(whole)
    bytes[200]! ^= 4
    writeFileSync(path, bytes)
    const warnings: { aside?: string }[] = []
    const log = await load(path, { damaged: 'prefix', warn: facts => warnings.push(facts) })
    expect(digests).toContain(log.position.digest)
    expect(log.sequence).toBeGreaterThan(0)
    const aside = warnings[0]!.aside!
    expect(aside).toMatch(/state\.damaged-20/)
    expect(readFileSync(aside)).toEqual(bytes)
    // The file is there until there is another: a crash now loses nothing.
    expect(existsSync(path)).toBe(true)
  })

  it('after a close is known to be whole: damage anywhere in it is found', async () => {
    const { path } = await written()
    const { file, routes } = Writer.serve(path)
    for (let i = 0; i < 30; i++) await routes.put(`k${i}`, { to: 'x' })
    await file.finish(5000)
    const whole = readFileSync(path)
    const records = whole.indexOf('k0') - 20
    for (let at = records; at < whole.length; at += 13) {
      const bytes = Buffer.from(whole)
      bytes[at]! ^= 16
      writeFileSync(path, bytes)
      expect((await refusal(load(path))).code).toBe('ERR_FDB_STATE_DAMAGED')
    }
  })

  it('causes an error when it is no state file at all, whatever is asked for; where there is no file the state is empty', async () => {
    const path = join(folder(), 'state')
    writeFileSync(path, 'routes: []\n'.repeat(10))
    for (const damaged of ['refuse', 'prefix'] as const)
      expect((await refusal(load(path, { damaged }))).code).toBe('ERR_FDB_STATE_FORMAT')
    rmSync(path)
    expect((await load(path)).sequence).toBe(0)
    expect((await load(join(path, 'no', 'such', 'folder'))).sequence).toBe(0)
  })
})

it('names the option that is wrong', () => {
  const wrong = (options: object) => () => stateFileSettings(options as StateFileOptions)
  expect(wrong({ path: '' })).toThrow(/option "stateFile.path" is ""/)
  expect(wrong({ path: '/a', sync: 0 })).toThrow(/option "stateFile.sync" is 0; give "always", "never" or/)
  expect(wrong({ path: '/a', damaged: 'yes' })).toThrow(/option "stateFile.damaged" is "yes"/)
})

describe('the segments of a state file', () => {
  /** Reads a file of segments of these epochs, which hold nothing. */
  function read(...epochs: number[]) {
    const all = epochs.map(epoch => Segment.create(epoch))
    const whole = segmentOf(Buffer.concat(all.map(bytesOf)), { sealed: false })
    onTestFinished(() => {
      for (const one of [...all, whole]) one.close()
    })
    return [...recordsOfFile(whole.fd, { limits: DEFAULT_LIMITS, mayLackMarks: true })].filter(
      record => record !== undefined,
    )
  }

  it('may be of one epoch or of later ones, and never of one before', () => {
    expect(read(2, 2, 3)).toEqual([])
    expect(() => read(2, 1)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_STATE_DAMAGED',
        message: expect.stringContaining('follows epoch 2'),
      }),
    )
  })
})

describe('a flush', () => {
  it('writes again if the right to write was lost for a moment, as in a handoff that failed', async () => {
    const writer = Writer.serve(join(folder(), 'state'), { sync: 'always' })
    await writer.routes.put('a', { to: 'x' })
    await writer.file.flush()
    await writer.routes.put('b', { to: 'y' })
    const flushed = writer.file.flush()
    // The pass of this flush finds the segment sealed.
    writer.mayWrite = false
    setImmediate(() => (writer.mayWrite = true))
    await flushed
    expect(writer.file.status().syncedSequence).toBe(writer.log.completeSequence)
  })

  it('rejects as another process’s if the right to write has ended meanwhile', async () => {
    const writer = Writer.serve(join(folder(), 'state'), { sync: 'always' })
    await writer.routes.put('a', { to: 'x' })
    await writer.file.flush()
    await writer.routes.put('b', { to: 'y' })
    const flushed = writer.file.flush()
    writer.mayWrite = false
    await expect(flushed).rejects.toMatchObject({ code: 'ERR_FDB_FENCED', retryable: true })
  })
})
