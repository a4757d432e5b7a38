import fs, { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { FileClaim, inUseError } from '../../../src/state/file/claim.js'
import { finishAtOnce } from '../../../src/state/file/copy.js'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

const IN_USE = { code: 'ERR_FDB_STATE_FILE_IN_USE' }
const PATIENCE_MS = 200
const quiet = { info() {}, warn() {} }

function statePath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-claim-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, 'state')
}

/** A process with its log; `first`: it claims the file, as a successor does not. */
async function start(path: string, { first = true } = {}) {
  const log = new StateLog()
  const file = new StateFile(stateFileSettings({ path, sync: 5 }), log, quiet, () => true)
  log.disk = file
  onTestFinished(() => {
    file.stop()
    log.close()
  })
  if (first) await file.claim(PATIENCE_MS)
  log.startWriting(Segment.create(1))
  const put = (key: string) => log.section('a').put(key, Buffer.from(key), { durable: true })
  return { log, file, put }
}

describe('a state file', () => {
  it('stays closed to a process of another control path while a process writes it, and opens when that has ended', async () => {
    const path = statePath()
    const { file, put } = await start(path)
    file.serve()
    await put('a')
    expect(readdirSync(dirname(path))).toEqual([basename(path)])
    await expect(start(path)).rejects.toMatchObject({ ...IN_USE, details: { path } })
    file.stop()
    const next = await start(path)
    next.file.serve()
    await next.put('b')
  })

  it('stays closed while another process starts with it, before there is a file', async () => {
    const path = statePath()
    const { file } = await start(path)
    await expect(start(path)).rejects.toMatchObject(IN_USE)
    file.stop()
    expect(readdirSync(dirname(path))).toEqual([])
    await start(path)
  })

  it('goes to one of two processes that start at the same time', async () => {
    const path = statePath()
    const outcomes = await Promise.allSettled([0, 1].map(() => FileClaim.take(path, quiet, PATIENCE_MS)))
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    for (const outcome of outcomes) if (outcome.status === 'fulfilled') outcome.value.close()
  })

  it('goes to a process that claims again, as another one has removed its claim as a leftover', async () => {
    const path = statePath()
    const list = vi.spyOn(fs, 'readdirSync').mockImplementationOnce(folder => {
      rmSync(`${folder}`, { recursive: true })
      mkdirSync(`${folder}`)
      return []
    })
    syncBuiltinESMExports()
    onTestFinished(() => {
      list.mockRestore()
      syncBuiltinESMExports()
    })
    const claim = await FileClaim.take(path, quiet, PATIENCE_MS)
    expect(fs.readdirSync(dirname(path))).toHaveLength(1)
    claim.close()
  })

  it('opens although a killed process has left its files beside it', async () => {
    const path = statePath()
    writeFileSync(`${path}.new-0123abcd`, '')
    const { file, put } = await start(path)
    file.serve()
    await put('a')
    expect(existsSync(`${path}.new-0123abcd`)).toBe(false)
  })

  it('goes to a successor, whose predecessor may be stopped and hold the lock', async () => {
    const path = statePath()
    const before = await start(path)
    before.file.serve()
    await before.put('a')
    const successor = await start(path, { first: false })
    successor.file.serve()
    await successor.put('b')
    await expect(start(path)).rejects.toMatchObject(IN_USE)
  })

  it('stays with another process that has taken it while that process writes it', async () => {
    const path = statePath()
    const loser = await start(path)
    loser.file.serve()
    await loser.put('a')
    const successor = await start(path, { first: false })
    successor.file.serve()
    await successor.put('b')
    const { ino } = statSync(path)
    await expect(loser.put('c')).rejects.toMatchObject({
      code: 'ERR_FDB_STATE_FILE',
      details: { made: true },
    })
    await until('the loser knows why', () => loser.file.status().lastError?.code === IN_USE.code)
    const given = { file: null, installing: null, inUse: () => inUseError(path, 0n) }
    expect(() => finishAtOnce(path, loser.log, { secret: false, service: '' }, given)).toThrow(
      'writes the state file',
    )
    expect(statSync(path).ino).toBe(ino)
    successor.file.stop()
    await until('the loser writes again', () => loser.file.status().ok)
  })
})
