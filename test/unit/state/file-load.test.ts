import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import { Segment, StateLog } from '../../fixtures/state.js'

function serving() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-load-'))
  const path = join(folder, 'state')
  const log = new StateLog()
  const file = new StateFile(stateFileSettings({ path }), log, { info() {}, warn() {} }, () => true)
  log.disk = file
  onTestFinished(() => {
    file.stop()
    log.close()
    rmSync(folder, { recursive: true, force: true })
  })
  log.startWriting(Segment.create(1))
  file.serve()
  return { path, log, file, section: log.section('loaded') }
}

/** A turn of the event loop that takes about `ms`, and changes the state. */
async function busyTurn(change: () => Promise<unknown>, ms: number): Promise<void> {
  const end = performance.now() + ms
  await change()
  while (performance.now() < end);
  await nextTurn()
}

describe('a process that changes the state in every turn of its event loop', () => {
  it('gets its file, and its durable changes reach the disk, within some turns', async () => {
    const { path, section } = serving()
    let made = 0
    const change = () =>
      Promise.all(Array.from({ length: 100 }, () => section.put(`k${made++}`, Buffer.alloc(20))))
    for (let round = 0; round < 4; round++) {
      let durable = false
      const written = section.put('d', Buffer.from([round]), { durable: true }).then(() => {
        durable = true
      })
      let turns = 0
      for (; !durable && turns < 60; turns++) await busyTurn(change, 3)
      expect({ round, durable, turns }).toMatchObject({ durable: true })
      await written
    }
    expect(existsSync(path)).toBe(true)
  })

  it('has all changes in the file but those of the last turns, also when each turn changes more than one write takes', async () => {
    const { file, log, section } = serving()
    const value = Buffer.alloc(400 * 1024)
    const sequences: number[] = []
    for (let turn = 0; turn < 100; turn++) {
      await busyTurn(() => Promise.all([0, 1, 2].map(i => section.put(`k${i}`, value))), 10)
      sequences.push(log.sequence)
    }
    expect(file.status().sequence).toBeGreaterThanOrEqual(sequences.at(-20)!)
  })

  it('can wait for the changes that wait now, although later ones wait for longer', async () => {
    const { log, section } = serving()
    log.pauseWriting()
    const first = section.put('a', Buffer.alloc(1))
    let settled = false
    void log.settled().then(() => {
      settled = true
    })
    void first.then(() => {
      log.pauseWriting()
      void section.put('b', Buffer.alloc(1))
    })
    log.resumeWriting()
    await first
    await nextTurn()
    expect(settled).toBe(true)
    log.resumeWriting()
  })
})

describe('an iteration over a section', () => {
  it('ends although its caller deletes each entry and puts it again', async () => {
    const { section } = serving()
    for (let i = 0; i < 10; i++) await section.put(`k${i}`, Buffer.alloc(1))
    let seen = 0
    for await (const [key, value] of section) {
      if (++seen > 100) break
      await section.delete(key)
      await section.put(key, value)
    }
    expect(seen).toBeLessThan(20)
  })
})
