import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { settleWorkers } from '../../../src/workers/options.js'
import { WorkerPool } from '../../../src/workers/pool.js'
import { untyped } from '../../fixtures/untyped.js'
import { peerWith } from '../../holder-support/processes.js'

vi.mock('../../../src/os/memory-room.js', () => ({
  checkMemoryRoom: () => {
    throw new Error('no room')
  },
}))

it('a worker is not replaced for want of memory, but one is started in place of one that has ended', async () => {
  let owner: ReturnType<typeof peerWith> | null = peerWith({ pid: 42 })
  const slot = poolWith(() => owner).slots[0]!
  await expect(slot.start()).rejects.toThrow('no room')
  owner = null
  await expect(slot.start()).rejects.toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED' })
})

it('a worker that an operator adds is refused for want of memory, not one that starts in place of another', async () => {
  const pool = poolWith(() => null)
  await expect(pool.resize(2)).rejects.toThrow()
  const failures = pool.slots.map(({ report }) => report.lastFailure)
  expect(failures).toEqual([expect.stringContaining('ended with code 1'), 'no room'])
})

it('a worker that the next main process has more than the previous one is refused for want of memory, and tried again', async () => {
  const pool = poolWith(() => null, 2)
  await pool.startAll({ takesOver: true })
  const failures = pool.slots.map(({ report }) => report.lastFailure)
  expect(failures).toEqual([expect.stringContaining('ended with code 1'), 'no room'])
})

/** Returns a pool, whose first worker a previous main process has had, and whose services are served by `owner`. */
function poolWith(owner: () => ReturnType<typeof peerWith> | null, workers = 1): WorkerPool {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-memory-'))
  const settings = settleWorkers({
    service: 'shop',
    workers,
    control: join(folder, 'control.sock'),
    logger: SILENT,
  })
  const pool = new WorkerPool({ ...settings, command: ['/bin/false'] })
  const operations = {
    get standing() {
      const none = { others: [], missing: [], bound: [], entries: [], lastFailure: null, failed: null }
      return { owner: owner(), phase: 'idle', ...none }
    },
    note() {},
    closeListeners() {},
    cancelHandoff: () => 'idle',
  }
  const get = (name: string) => (name === pool.slots[0]?.name ? { operations } : undefined)
  pool.setServices(untyped({ paused: false, get, find: () => ({ operations }) }))
  onTestFinished(() => {
    pool.lose()
    rmSync(folder, { recursive: true })
  })
  return pool
}
