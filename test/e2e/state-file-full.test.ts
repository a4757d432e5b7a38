import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { StateFile, type StateFileStatus } from '../../src/state/file/state-file.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

/** File systems of their own need root. Without, what follows is shown by the folder that is missing alone. */
const ROOT = process.geteuid?.() === 0 && mayMount()

function mayMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder], { stdio: 'ignore' })
    execFileSync('umount', [folder])
    return true
  } catch {
    return false
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function fileSystem(options: string): { folder: string; remount(options: string): void } {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-full-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', folder])
  onTestFinished(() => {
    execFileSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true, force: true })
  })
  return { folder, remount: options => execFileSync('mount', ['-o', `remount,${options}`, folder]) }
}

function serve(path: string, mayWrite = () => true) {
  const log = new StateLog()
  const told: StateFileStatus[] = []
  const warnings: string[] = []
  const logger = { info() {}, warn: (_: object, message: string) => warnings.push(message) }
  const file = new StateFile(stateFileSettings({ path, sync: 50 }), log, logger, mayWrite)
  file.onChange = status => told.push(status)
  log.startWriting(Segment.create(1))
  file.serve()
  onTestFinished(() => {
    file.stop()
    log.close()
  })
  return { log, file, told, warnings, raw: log.section('raw') }
}

async function digestOf(path: string): Promise<string> {
  const log = new StateLog()
  const segment = Segment.create(1)
  await loadStateFile(stateFileSettings(path), segment, log.limits, { info() {}, warn() {} })
  await log.adopt(segment)
  const { digest } = log.position
  log.close()
  return digest
}

describe('a state file that cannot be written', () => {
  it.runIf(ROOT)(
    'because the disk is full: not called complete when the right to write has ended',
    async () => {
      const { folder } = fileSystem('size=64k')
      let [may, refusals] = [true, 0]
      const { file, told, raw } = serve(join(folder, 'state'), () => {
        if (!may) refusals++
        return may
      })
      for (const key of ['a', 'b', 'c']) {
        await raw.put(key, Buffer.alloc(30_000))
        if (key === 'a') await file.flush()
      }
      await until('it is told', () => told.length === 1)
      may = false
      await until('it tries again, and may not', () => refusals > 0)
      await setImmediate()
      expect(told.map(({ ok }) => ok)).toEqual([false])
    },
  )

  it('because its folder is missing: said once, and made when there is one', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-full-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const path = join(folder, 'not yet', 'state')
    const { log, file, told, warnings, raw } = serve(path)
    await raw.put('a', Buffer.alloc(10))
    await until('it is told', () => told.length === 1)
    expect(file.status()).toMatchObject({
      ok: false,
      writing: false,
      lastError: { code: 'ENOENT' },
      syncedSequence: 0,
    })
    await raw.put('b', Buffer.alloc(10))
    expect(file.status().behindBytes).toBeGreaterThan(50)
    await expect(file.flush()).rejects.toThrow(/the last 2 records of the state are not yet in .*: ENOENT/)
    mkdirSync(join(folder, 'not yet'))
    await until('it is whole', () => file.status().ok)
    expect(await digestOf(path)).toBe(log.position.digest)
    expect([told.length, warnings.length]).toEqual([2, 1])
  })

  it.runIf(ROOT)(
    'because the disk is full (root, a tmpfs): changes go on, and it is made whole when there is room',
    async () => {
      const { folder, remount } = fileSystem('size=1m')
      const path = join(folder, 'state')
      const { log, file, told, raw } = serve(path)
      await raw.put('a', Buffer.alloc(400_000, 1))
      await file.flush()
      const before = await digestOf(path)
      for (let i = 0; i < 20; i++) await raw.put(`k${i}`, Buffer.alloc(100_000, i))
      await until('it is told', () => told.length === 1)
      expect(told[0]).toMatchObject({ ok: false, writing: true, lastError: { code: 'ENOSPC' } })
      expect(log.sequence).toBe(21)
      // The file has a state that there was, and a process can start from it.
      expect(before).not.toBe(log.position.digest)
      expect((await digestOf(path)).length).toBe(64)
      remount('size=8m')
      await until('it is whole', () => file.status().ok && file.status().sequence === log.sequence)
      await file.flush()
      expect(await digestOf(path)).toBe(log.position.digest)
      expect(told.map(({ ok }) => ok)).toEqual([false, true])
    },
  )

  it.runIf(ROOT)(
    'because the disk has no room for a second one (root, a tmpfs): the one before stays',
    async () => {
      const { folder, remount } = fileSystem('size=1m')
      const path = join(folder, 'state')
      const first = serve(path)
      await first.raw.put('a', Buffer.alloc(600_000, 1))
      await first.file.flush()
      const { digest } = first.log.position
      first.file.stop()
      const second = serve(path)
      await second.raw.put('b', Buffer.alloc(700_000, 1))
      await until('it is told', () => second.told.length === 1)
      expect(await digestOf(path)).toBe(digest)
      remount('size=4m')
      await until('it is whole', () => second.file.status().ok)
      expect(await digestOf(path)).toBe(second.log.position.digest)
    },
  )

  it.runIf(ROOT)('because the file system is read-only (root, a tmpfs): said, and tried again', async () => {
    const { folder, remount } = fileSystem('size=1m,ro')
    const path = join(folder, 'state')
    const { log, file, told, raw } = serve(path)
    await raw.put('a', Buffer.alloc(10))
    await until('it is told', () => told.length === 1)
    expect(file.status().lastError?.code).toBe('EROFS')
    remount('rw,size=1m')
    await until('it is whole', () => file.status().ok)
    expect(await digestOf(path)).toBe(log.position.digest)
  })

  it('stops no service and no upgrade, and shows in status', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-full-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const place = join(folder, 'state')
    mkdirSync(place)
    const path = join(place, 'file')
    const scene = Scene.open({ options: { stateFile: path }, upgrade: { probation: 0, heartbeat: 50 } })
    const first = await scene.serve({ routes: 50 })
    await until('the file is there', () => statSync(path, { throwIfNoEntry: false }))
    renameSync(place, `${place} away`)
    await first.order('many', { count: 2000 })
    const lost = await scene.statusWhere('the file is lost', ({ state }) => state.file?.ok === false)
    expect(lost.state.file).toMatchObject({
      path,
      lastError: { code: expect.stringMatching(/ENOENT|ERR_FDB_STATE_FILE/) },
    })
    const second = await scene.serve()
    await first.end()
    await scene.statusWhere('it is lost for the next one too', ({ state }) => state.file?.ok === false)
    mkdirSync(place)
    const { state } = await scene.statusWhere('it is whole', ({ state }) => state.file?.ok === true)
    expect(await digestOf(path)).toBe(state.digest)
    expect(second.find('ready')).toBeDefined()
    expect(readFileSync(path).length).toBeGreaterThan(10_000)
  })
})
