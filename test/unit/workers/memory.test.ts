import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
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
  const folder = mkdtempSync(join(tmpdir(), 'fdb-memory-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const settings = settleWorkers({ service: 'shop', workers: 1, control: join(folder, 'control.sock') })
  const pool = new WorkerPool({ ...settings, command: ['/bin/false'] })
  let owner: ReturnType<typeof peerWith> | null = peerWith({ pid: 42 })
  const operations = {
    get standing() {
      return { owner, others: [], missing: [], bound: [], phase: 'idle', lastFailure: null, failed: null }
    },
    note() {},
  }
  pool.setServices(untyped({ paused: false, get: () => ({ operations }), find: () => ({ operations }) }))
  const slot = pool.slots[0]!
  await expect(slot.start()).rejects.toThrow('no room')
  owner = null
  await expect(slot.start()).rejects.toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED' })
})
