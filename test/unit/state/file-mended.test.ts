import fs, { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { keepState } from '../../../src/daemon/service/sole-copy.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { FileCopy, finishAtOnce } from '../../../src/state/file/copy.js'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { loadStateFile } from '../../../src/state/file/load.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import { bytes, defineSection, Segment, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

const quiet = { debug() {}, info() {}, warn() {}, error() {} }

function statePath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-mended-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, 'state')
}

function writing(): StateLog {
  const log = new StateLog()
  onTestFinished(() => log.close())
  log.startWriting(Segment.create(1))
  return log
}

function follow(log: StateLog, path: string, sync: number | 'never' = 'never'): StateFile {
  const file = new StateFile(stateFileSettings({ path, sync }), log, quiet, () => true)
  onTestFinished(() => file.stop())
  file.serve()
  return file
}

/** The log that the file at `path` gives to a process after a reboot. */
async function digestOf(path: string): Promise<string> {
  const log = new StateLog()
  const segment = Segment.create(1)
  await loadStateFile(stateFileSettings(path), segment, log.limits, quiet)
  await log.adopt(segment)
  log.close()
  return log.position.digest
}

/** The files of this process that are, or were, at this path. */
function openAt(path: string): string[] {
  const names = readdirSync('/proc/self/fd').flatMap(fd => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)]
    } catch {
      return []
    }
  })
  return names.filter(name => name.startsWith(path))
}

/** The prototype of all handles. */
async function allHandles(): Promise<FileHandle> {
  const handle = await open('/dev/null', 'r')
  const all: FileHandle = Object.getPrototypeOf(handle)
  await handle.close()
  return all
}

/** Does this instead of the next write to a file, once. */
async function atNextWrite(
  act: (write: () => ReturnType<FileHandle['write']>, half: () => ReturnType<FileHandle['write']>) => unknown,
): Promise<void> {
  const all = await allHandles()
  const { write } = all
  const spy = vi.spyOn(all, 'write')
  onTestFinished(() => spy.mockRestore())
  const once = async function (this: FileHandle, bytes: Buffer, from: number, count: number, at: number) {
    const some = (length: number) => Reflect.apply(write, this, [bytes, from, length, at])
    return await act(
      () => some(count),
      () => some(count >> 1),
    )
  }
  spy.mockImplementationOnce(once as never)
}

it('half of what could not be written is not in the state file at the end of the process', async () => {
  const log = writing()
  await log.section('notes').put('a', Buffer.from('a'))
  const copy = await FileCopy.create(statePath(), { secret: false, service: '' })
  onTestFinished(() => copy.close())
  while ((await copy.copySome(log)) !== 0);
  const { size } = copy
  await log.section('notes').put('b', Buffer.from('b'))
  await atNextWrite(async (_write, half) => {
    await half()
    throw Object.assign(new Error('no room'), { code: 'ENOSPC' })
  })
  await expect(copy.copySome(log)).rejects.toThrow('no room')
  expect(statSync(copy.path).size).toBeGreaterThan(size)
  expect(copy.finishNow(log)).toBe(true)
  expect(statSync(copy.path).size).toBe(copy.size)
  expect(await digestOf(copy.path)).toBe(log.position.digest)
})

it('a process that ends brings what it has acknowledged to its state file, once', async () => {
  const path = statePath()
  const log = writing()
  const before = process.listeners('exit')
  const file = follow(log, path)
  file.serve()
  const added = process.listeners('exit').filter(listener => !before.includes(listener))
  expect(added).toHaveLength(1)
  const put = log.section('notes').put('a', Buffer.from('acknowledged'))
  // No turn of the event loop comes any more.
  added[0]!(0)
  expect(readFileSync(path).includes('acknowledged')).toBe(true)
  await put
  file.stop()
  expect(process.listeners('exit')).toEqual(before)
})

it('a process that ends while it installs a file that another process has removed writes another', async () => {
  const path = statePath()
  const log = writing()
  const kind = { secret: false, service: '' }
  const installing = await FileCopy.create(path, kind)
  onTestFinished(() => installing.close())
  await log.section('notes').put('a', Buffer.from('acknowledged'))
  // See removeOthers().
  rmSync(installing.path)
  finishAtOnce(path, log, kind, { file: null, installing })
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a state file that somebody has removed is closed, and another written', async () => {
  const path = statePath()
  const log = writing()
  const file = follow(log, path, 20)
  await log.section('notes').put('a', Buffer.from('a'))
  await file.flush()
  let whole = false
  file.onChange = ({ ok }) => {
    whole = ok
  }
  rmSync(path)
  await log.section('notes').put('b', Buffer.from('b'))
  await until('another is there', () => whole)
  expect(openAt(path)).toEqual([path])
})

/**
 * A log that has 10 MB in a sealed segment, and writes in the next one. No single write takes that whole: it has up to 8 MiB, by the time since the one
 * before.
 */
async function inTwoSegments(): Promise<StateLog> {
  const log = writing()
  for (let i = 0; i < 50; i++) await log.section('notes').put(`${i}`, Buffer.alloc(200_000, i))
  log.segments.at(-1)!.seal()
  log.startWriting(Segment.create(2))
  return log
}

it('a file that a successor prepares is begun again when what it lacks was merged with what it has', async () => {
  const path = statePath()
  const log = await inTwoSegments()
  const beside = () => readdirSync(join(path, '..'))
  let first: string[] = []
  await atNextWrite(async write => {
    const done = await write()
    first = beside()
    await log.compact()
    return done
  })
  const file = new StateFile(stateFileSettings(path), log, quiet, () => true)
  onTestFinished(() => file.stop())
  file.prepare()
  await until('another is there', () => first.length > 0 && beside().some(name => !first.includes(name)))
  file.serve()
  await file.flush()
  expect(beside()).toEqual(['state'])
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a flush waits for the file that is begun again when what the first lacks was merged with what it has', async () => {
  const path = statePath()
  const log = await inTwoSegments()
  let merged = false
  await atNextWrite(async write => {
    const done = await write()
    await log.compact()
    merged = true
    return done
  })
  const file = new StateFile(stateFileSettings(path), log, quiet, () => true)
  onTestFinished(() => file.stop())
  file.serve()
  await file.flush()
  expect(merged).toBe(true)
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a file that has all of what is merged is written anew nevertheless, where that has secrets: one of them was replaced', async () => {
  const path = statePath()
  const log = writing()
  const keys = log.section('keys', defineSection({ version: 1, codec: bytes(), secret: true }))
  const file = follow(log, path)
  const has = (text: string) => readFileSync(path).includes(text)
  await keys.put('key', Buffer.from('the former one'))
  await keys.put('key', Buffer.from('the next one'))
  log.segments.at(-1)!.seal()
  log.startWriting(Segment.create(2))
  await file.flush()
  expect([has('the former one'), has('the next one')]).toEqual([true, true])
  // Nothing is changed afterwards that the file would be told of.
  await log.compact()
  await until('the former one is gone', () => !has('the former one'))
  expect(has('the next one')).toBe(true)
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a daemon writes the state that it alone has to its members’ file, unless another has gone on with that', async () => {
  const path = statePath()
  const log = writing()
  const file = follow(log, path)
  await log.section('notes').put('a', Buffer.from('in the file'))
  await file.flush()
  file.stop()
  await until('it is closed', () => openAt(path).length === 0)
  await log.section('notes').put('b', Buffer.from('in memory alone'))
  const segmentSet = new SegmentSet()
  onTestFinished(() => segmentSet.close())
  segmentSet.put(log.segments[0]!.readOnly(), false)
  const told: string[] = []
  const logger = { ...quiet, error: (_: object, message: string) => told.push(message) }
  const keep = (diedAt: number) =>
    keepState({ service: '', path, diedAt, segmentSet, logger, timeoutMs: 10_000 })
  const { ino } = statSync(path)
  await keep(Date.now() - 60_000)
  expect(told).toEqual([expect.stringContaining('could not write the state')])
  expect(statSync(path).ino).toBe(ino)
  await keep(Date.now())
  expect(told).toHaveLength(1)
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a daemon that is stopped, while it writes the state that it alone has, for longer than that may take, writes it all the same', async () => {
  const path = statePath()
  const log = writing()
  await log.section('notes').put('a', Buffer.from('in memory alone'))
  const segmentSet = new SegmentSet()
  onTestFinished(() => segmentSet.close())
  segmentSet.put(log.segments[0]!.readOnly(), false)
  const { flush } = StateFile.prototype
  const begun = vi.spyOn(StateFile.prototype, 'flush').mockImplementationOnce(function (this: StateFile) {
    // As SIGSTOP does.
    setImmediate(() => {
      for (const from = performance.now(); performance.now() - from < 450; );
    })
    return flush.call(this)
  })
  onTestFinished(() => begun.mockRestore())
  await keepState({ service: '', path, diedAt: Date.now(), segmentSet, logger: quiet, timeoutMs: 400 })
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a file that cannot be removed any more, as the disk is read-only by now, is closed all the same', async () => {
  const copy = await FileCopy.create(statePath(), { secret: false, service: '' })
  const removed = vi.spyOn(fs, 'rmSync').mockImplementation(() => {
    throw Object.assign(new Error('read-only file system'), { code: 'EROFS' })
  })
  syncBuiltinESMExports()
  onTestFinished(() => {
    removed.mockRestore()
    syncBuiltinESMExports()
  })
  // The end of a file does not wait for it: an error here would end the process.
  await copy.close()
  expect(removed).toHaveBeenCalledOnce()
  expect(openAt(copy.path)).toEqual([])
})

it('a process that writes again after another one has replaced the file refuses no durable change', async () => {
  const path = statePath()
  const log = writing()
  const warn = vi.fn()
  const file = new StateFile(stateFileSettings({ path, sync: 'always' }), log, { ...quiet, warn }, () => true)
  onTestFinished(() => file.stop())
  log.disk = file
  file.serve()
  const notes = log.section('notes')
  await notes.put('a', Buffer.from('a'), { durable: true })
  const other = follow(log, path)
  await other.flush()
  other.stop()
  file.serve()
  await notes.put('b', Buffer.from('b'), { durable: true })
  expect(warn).not.toHaveBeenCalled()
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a process that stops between a failed write and the next attempt, and serves again, writes the file again', async () => {
  const log = writing()
  const file = follow(log, statePath())
  await file.flush()
  const failed = new Promise<void>(resolve => {
    file.onChange = ({ ok }) => ok || resolve()
  })
  await atNextWrite(() => {
    throw Object.assign(new Error('a bad disk'), { code: 'EIO' })
  })
  await log.section('notes').put('a', Buffer.from('a'))
  await failed
  file.stop()
  file.serve()
  await until('the file has the change', () => file.status().sequence === log.sequence)
})

it('a sync that fails when its file was replaced meanwhile is no failure of the new file', async () => {
  const path = statePath()
  const log = writing()
  const file = follow(log, path, 20)
  const notes = log.section('notes')
  await notes.put('a', Buffer.from('a'))
  await file.flush()
  let fail = () => {}
  const failed = new Promise<void>((_, reject) => {
    fail = () => reject(Object.assign(new Error('a bad disk'), { code: 'EIO' }))
  })
  const spy = vi.spyOn(await allHandles(), 'datasync').mockImplementationOnce(() => failed)
  onTestFinished(() => spy.mockRestore())
  await notes.put('b', Buffer.from('b'))
  await until('it is being synced', () => spy.mock.calls.length === 1)
  rmSync(path)
  await notes.put('c', Buffer.from('c'))
  await until('there is a new file', () => file.status().lastError !== null && file.status().ok)
  const failures: boolean[] = []
  file.onChange = ({ ok }) => void failures.push(ok)
  fail()
  await notes.put('d', Buffer.from('d'))
  await file.flush()
  expect([failures, file.status().lastError?.code]).toEqual([[], 'ERR_FDB_STATE_FILE'])
  expect(await digestOf(path)).toBe(log.position.digest)
})

it('a sync that is asked for while another one runs has what was written since that began', async () => {
  const path = statePath()
  const log = writing()
  const section = log.section('a', defineSection({ version: 1, codec: bytes() }))
  await section.put('a', Buffer.from('a'))
  const copy = await FileCopy.create(path, { secret: false, service: '' })
  onTestFinished(() => copy.close())
  await copy.copyAll(log)
  const all = await allHandles()
  const { datasync } = all
  let goOn = () => {}
  const later = new Promise<void>(resolve => {
    goOn = resolve
  })
  const spy = vi.spyOn(all, 'datasync').mockImplementationOnce(async function (this: FileHandle) {
    await Reflect.apply(datasync, this, [])
    await later
  })
  onTestFinished(() => spy.mockRestore())
  const first = copy.sync()
  await until('it runs', () => spy.mock.calls.length === 1)
  await section.put('b', Buffer.from('b'))
  await copy.copyAll(log)
  const second = copy.sync()
  goOn()
  await Promise.all([first, second])
  expect(copy.unsynced).toBe(false)
})
