import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { COUNT, changesOf } from '../fixtures/state-kill-changes.js'
import { perLane } from '../lanes/lane.js'
import { bundled } from '../processes/bundled.js'

/** The acceptance run: FDB_KILLS=200. */
const KILLS = Number(process.env.FDB_KILLS ?? perLane(1, 6))

function modelOf(made: number): Map<string, Uint8Array> {
  const entries = new Map<string, Uint8Array>()
  for (let i = 0; i < made; i++) {
    for (const change of changesOf(i)) {
      if ('delete' in change) entries.delete(change.key)
      else entries.set(change.key, change.value)
    }
  }
  return entries
}

it(`a state file whose writer is killed while it replaces it is readable, and holds what is older than the policy says, ${KILLS} times`, {
  timeout: 180_000 + KILLS * 5000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-file-kill-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'state')
  const board = OwnedFd.own(native.memfd('board'), 'board')
  const notes = Buffer.alloc(16)
  const warned: object[] = []
  const logger = { info() {}, warn: (facts: object) => warned.push(facts) }
  let random = 4711
  let leftovers = 0
  let made = 0
  for (let kill = 0; kill < KILLS; kill++) {
    // Now and then it begins again, as the file grows.
    if (kill % 10 === 0) rmSync(path, { force: true })
    const { file, env } = bundled('state-file-writer.ts')
    const child = spawn(process.execPath, [file, path], {
      env,
      stdio: ['ignore', 'pipe', 'inherit', board.raw],
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child.stdout!, 'data')
    random = (random * 1103515245 + 12345) % 2 ** 31
    await new Promise(resolve => setTimeout(resolve, 20 + (random / 2 ** 31) * (kill % 3 === 0 ? 2200 : 300)))
    child.kill('SIGKILL')
    await once(child, 'exit')

    native.pread(board.raw, notes, 0, 16, 0)
    const [old, inFile] = [notes.readDoubleLE(0), notes.readDoubleLE(8)]
    const log = new StateLog()
    const segment = Segment.create(1)
    await loadStateFile(stateFileSettings(path), segment, log.limits, logger)
    await log.adopt(segment)
    const section = log.section('killed')
    const count = section.get(COUNT)
    made = count ? Buffer.from(count).readDoubleLE() : 0
    expect({ made, kill, written: inFile, lost: made < inFile }).toMatchObject({ lost: false })
    expect({ made, kill, old, late: made < old }).toMatchObject({ late: false })
    const model = modelOf(made)
    expect(section.size).toBe(model.size)
    for (const [key, value] of model) expect(Buffer.compare(section.get(key)!, value)).toBe(0)
    log.close()
    if (readdirSync(folder).length > 1) leftovers++
    // Each removes what others left, and leaves one at the most.
    expect(readdirSync(folder).length).toBeLessThan(3)
  }
  board.close()
  if (process.env.FDB_KILLS)
    console.log(
      `${KILLS} kills, ${leftovers} while a new file was written; ${warned.length} torn ends; at last ${made} changes`,
    )
  expect(made).toBeGreaterThan(100)
})
