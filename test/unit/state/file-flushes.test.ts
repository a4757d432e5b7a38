import { mkdtempSync, rmSync } from 'node:fs'
import files from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import { seeded } from '../../fixtures/seeded.js'
import { Segment, StateLog } from '../../fixtures/state.js'
import { perLane } from '../../lanes/lane.js'

const STEPS = 60

/** A state file that its process has written, on a disk whose syncs last until they are released. */
async function written() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-flushes-'))
  const path = join(folder, 'state')
  const log = new StateLog()
  log.startWriting(Segment.create(1))
  const settings = stateFileSettings({ path, sync: 'never' }, 'shop')
  const file = new StateFile(settings, log, { info() {}, warn() {} }, () => true)
  file.serve()
  await log.section('notes').put('first', Buffer.from('x'))
  await file.flush()
  const handle = await files.open(path)
  const prototype = Object.getPrototypeOf(handle) as typeof handle
  await handle.close()
  const held: (() => void)[] = []
  /** The last change that was in the file when a sync began that has ended. */
  let durable = file.status().sequence
  const spy = vi.spyOn(prototype, 'datasync').mockImplementation(async () => {
    const covered = file.status().sequence
    await new Promise<void>(resolve => held.push(resolve))
    durable = Math.max(durable, covered)
  })
  const end = () => {
    spy.mockRestore()
    for (const release of held.splice(0)) release()
    file.stop()
    log.close()
    rmSync(folder, { recursive: true, force: true })
  }
  return { file, held, log, durable: () => durable, [Symbol.dispose]: end }
}

it('a flush ends when a sync has ended that began after the last change was written, also beside other flushes', async () => {
  for (let seed = 1; seed <= perLane(5, 200); seed++) {
    const random = seeded(seed)
    using writing = await written()
    const { durable, file, held, log } = writing
    const notes = log.section('notes')
    const lost: string[] = []
    const open = new Set<Promise<void>>()
    const flush = async () => {
      await notes.put(`key ${random(5)}`, Buffer.from('x'.repeat(random(100))))
      const last = log.completeSequence
      const flushed = file.flush().then(() => {
        open.delete(flushed)
        if (durable() < last) lost.push(`change ${last} of ${durable()}`)
      })
      open.add(flushed)
    }
    const steps = [
      flush,
      () => held.shift()?.(),
      () => new Promise(resolve => setTimeout(resolve, 2)),
      () => new Promise(setImmediate),
    ]
    for (let n = 0; n < STEPS; n++) await steps[random(steps.length)]!()
    while (open.size > 0) {
      held.shift()?.()
      await new Promise(setImmediate)
    }
    expect(lost, `seed ${seed}`).toEqual([])
  }
})
