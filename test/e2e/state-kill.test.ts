import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { Digest } from '../../src/state/digest.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { readSegment } from '../fixtures/read-segment.js'
import { COUNT, changesOf } from '../fixtures/state-kill-changes.js'
import { perLane } from '../lanes/lane.js'
import { bundled } from '../processes/bundled.js'
import { workOf } from '../processes/worked.js'

/** Writers, one after the other, in the same segment. */
const CHAIN = 5
/** The acceptance run: FDB_KILLS=200. */
const KILLS = Number(process.env.FDB_KILLS ?? perLane(3, 20))

const children: ChildProcess[] = []
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

/** The sum of the first changes, kept up to date as there are more. */
class Model {
  readonly entries = new Map<string, Uint8Array>()
  made = 0
  changes = 0

  advanceTo(made: number): void {
    for (; this.made < made; this.made++) {
      const changes = changesOf(this.made)
      this.changes += changes.length
      for (const change of changes) {
        if ('delete' in change) this.entries.delete(change.key)
        else this.entries.set(change.key, change.value)
      }
    }
  }

  get digest(): string {
    const digest = new Digest()
    const name = Buffer.from('killed')
    for (const [key, value] of this.entries) digest.add(name, Buffer.from(key), value)
    return digest.toString()
  }
}

async function isTorn(segment: Segment): Promise<boolean> {
  const reader = readSegment(segment)
  for (;;) {
    const step = await reader.next()
    if (step.done) return step.value.torn
  }
}

describe('a writer that is killed', () => {
  it(`leaves every acknowledged change and no half of a bulk, ${KILLS} times`, {
    timeout: 180_000 + KILLS * 4000,
  }, async () => {
    const board = OwnedFd.own(native.memfd('acknowledged'), 'acknowledged')
    const note = Buffer.alloc(8)
    const seen = { acknowledged: 0, changes: 0, ms: 0, torn: 0 }
    let random = 12345
    for (let left = KILLS; left > 0; left -= CHAIN) {
      const segment = Segment.create(1)
      const model = new Model()
      for (let writer = 0; writer < Math.min(CHAIN, left); writer++) {
        const before = model.changes
        const { file, env } = bundled('state-kill-writer.ts')
        const child = spawn(process.execPath, [file], {
          env,
          stdio: ['ignore', 'pipe', 'inherit', segment.fd.raw, board.raw],
        })
        children.push(child)
        await once(child.stdout!, 'data')
        const worked = workOf(child.pid)
        random = (random * 1103515245 + 12345) % 2 ** 31
        // By its own work: beside a load a writer that lives for so long may not have written yet.
        const wanted = 2 + (random / 2 ** 31) * 150
        while (worked() < wanted) await new Promise(resolve => setTimeout(resolve, 1))
        seen.ms += worked()
        child.kill('SIGKILL')
        await once(child, 'exit')

        native.pread(board.raw, note, 0, 8, 0)
        const acknowledged = note.readDoubleLE()
        // The segment is not sealed: as the next writer finds it.
        const reader = new StateLog()
        await reader.adopt(segment.readOnly())
        const section = reader.section('killed')
        const count = section.get(COUNT)
        const made = count ? Buffer.from(count).readDoubleLE() : 0
        expect(made).toBeGreaterThanOrEqual(acknowledged)
        model.advanceTo(made)
        expect(reader.position.digest).toBe(model.digest)
        expect(section.size).toBe(model.entries.size)
        reader.close()
        seen.acknowledged += acknowledged
        seen.changes += model.changes - before
        if (await isTorn(segment)) seen.torn++
      }
      // And sealed, as the next version finds it.
      segment.seal()
      const reader = new StateLog()
      await reader.adopt(segment.readOnly())
      expect(reader.position).toMatchObject({ digest: model.digest })
      reader.close()
      segment.close()
    }
    board.close()
    const perSecond = Math.round((1000 * seen.changes) / seen.ms)
    if (process.env.FDB_KILLS)
      console.log(`${perSecond} changes a second; half a record at the end: ${seen.torn}`)
    expect(seen.acknowledged).toBeGreaterThan(KILLS)
    // The process's own time, whatever else the machine does: it had no pause to be killed in.
    expect(perSecond).toBeGreaterThan(process.env.FDB_KILLS ? 10_000 : 1000)
  })
})
