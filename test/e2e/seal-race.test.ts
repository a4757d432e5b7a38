import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterEach, describe, expect, it } from 'vitest'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import type { Position } from '../../src/state/history.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { readSegment } from '../fixtures/read-segment.js'
import { BATCH, RaceBoard, SIZES } from '../fixtures/seal-race-board.js'
import { perLane } from '../lanes/lane.js'
import { bundled } from '../processes/bundled.js'

/** The acceptance run: FDB_RACES=10000. */
const RACES = Number(process.env.FDB_RACES ?? perLane(40, 1000))

/** Before a seal. Where both processes have one processor, the other one gets it only after some slices of the scheduler, of up to 4 ms each. */
const DELAY_MS = { least: 0.001, most: 30 }

const children: ChildProcess[] = []
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

function start(fixture: string, fd: number): ChildProcess {
  const { file, env } = bundled(`${fixture}.ts`)
  const stdio: ('ignore' | 'pipe' | 'inherit' | number)[] = ['ignore', 'pipe', 'inherit', fd]
  const child = spawn(process.execPath, [file], { env, stdio })
  children.push(child)
  return child
}

/** A reader's view of a segment: how many whole records, and whether half of one. */
async function contents(segment: Segment): Promise<{ records: number; torn: boolean }> {
  const found = readSegment(segment)
  for (let records = 0; ; records++) {
    const { done, value } = await found.next()
    if (done) return { records, torn: value.torn }
  }
}

describe('a seal against an append in another process', () => {
  it(`leaves each append whole or refused, ${RACES} times`, { timeout: 180_000 + RACES * 20 }, async () => {
    const memory = OwnedFd.own(native.memfd('race board'), 'race board')
    const board = new RaceBoard(memory.raw)
    const child = start('seal-race-writer', memory.raw)
    const alive = () => child.exitCode === null && child.signalCode === null
    const seen = { whole: 0, sealed: 0 }
    // The delay before a seal goes to where both outcomes are likely, for each size.
    const delays = SIZES.map(() => 0.05)
    let batch = 0
    for (let left = RACES; left > 0; left -= BATCH) {
      const segments = Array.from({ length: Math.min(BATCH, left) }, () => Segment.create(1))
      board.begin(
        ++batch,
        segments.map(segment => segment.fd.raw),
        alive,
      )
      for (const [i, segment] of segments.entries()) {
        const size = i % SIZES.length
        const until = performance.now() + delays[size]! * (0.5 + ((i * 37) % 100) / 100)
        board.start(i + 1)
        while (performance.now() < until);
        segment.seal()
        const { result, written } = board.waitForResult(i)
        const bytes = segment.size() - segment.start
        const { records, torn } = await contents(segment)
        if (result === 'whole') expect([written, records, torn]).toEqual([bytes, 1, false])
        else expect([result, written, bytes, records, torn]).toEqual(['sealed', 0, 0, 0, false])
        seen[result as 'whole' | 'sealed']++
        const delay = delays[size]! * (result === 'whole' ? 0.75 : 4 / 3)
        delays[size] = Math.min(DELAY_MS.most, Math.max(DELAY_MS.least, delay))
      }
      board.waitForDone(batch, alive)
      for (const segment of segments) segment.close()
    }
    board.end()
    if (alive()) await once(child, 'exit')
    memory.close()
    expect(seen.whole + seen.sealed).toBe(RACES)
    // Otherwise nothing raced.
    expect(Math.min(seen.whole, seen.sealed)).toBeGreaterThan(RACES / 20)
  })

  it('leaves in the log exactly what was acknowledged to the writer', async () => {
    for (let i = 0; i < perLane(1, 3); i++) {
      const segment = Segment.create(1)
      const child = start('seal-race-log', segment.fd.raw)
      const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
      expect((await lines.next()).value).toBe('writing')
      const reader = new StateLog()
      await reader.adopt(segment.readOnly())
      while ((await reader.catchUp()).sequence < 500 * (i + 1))
        await new Promise(resolve => setImmediate(resolve))
      segment.seal()
      const position = await reader.catchUp()
      const said = JSON.parse((await lines.next()).value as string) as {
        acknowledged: number
        position: Position
      }
      expect(said).toEqual({ acknowledged: position.sequence, position })
      reader.close()
      segment.close()
    }
  })
})
