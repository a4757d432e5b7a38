import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { StateFile } from '../../src/state/file/state-file.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { routeSchema } from '../fixtures/state-logs.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

/** The acceptance run: FDB_RUNS=100000. */
const RUNS = Number(process.env.FDB_RUNS ?? perLane(75, 800))
const SEED = 17

const folder = mkdtempSync(join(tmpdir(), 'fdb-file-fuzz-'))
const path = join(folder, 'state')
/** A file with a snapshot, three epochs and several syncs; and every state that there was. */
let whole: Buffer
const digests = new Set(['0'.repeat(64)])

beforeAll(async () => {
  const log = new StateLog({ limits: { changesPerRecord: 3 } })
  const logger = { info() {}, warn: (_: object, message: string) => expect.fail(message) }
  const file = new StateFile(stateFileSettings({ path, sync: 'never' }), log, logger, () => true)
  const routes = log.section('routes', routeSchema)
  const raw = log.section('raw')
  const fill = async (round: number) => {
    for (let i = 0; i < 12; i++) {
      await routes.put(`k${i % 5}`, { to: `u${i + round}`, weight: i })
      digests.add(log.position.digest)
      await raw.put(`r${i}`, Buffer.alloc(i * 7, i), { request: `q${round}-${i}` })
      digests.add(log.position.digest)
      if (i === 5 && round > 0) await file.flush()
    }
    await routes.bulk(
      Array.from({ length: 14 }, (_, i) => ({ key: `k${i}`, value: { to: `v${i + round}` } })),
    )
    digests.add(log.position.digest)
    await raw.delete('r3')
    digests.add(log.position.digest)
  }
  log.startWriting(Segment.create(1))
  await fill(0)
  log.segments[0]!.seal()
  log.startWriting(Segment.create(2))
  await log.compact()
  file.serve()
  await fill(100)
  await file.flush()
  log.segments.at(-1)!.seal()
  log.startWriting(Segment.create(3))
  await fill(200)
  await file.flush()
  await routes.put('last', { to: 'x' })
  digests.add(log.position.digest)
  await file.flush()
  whole = readFileSync(path)
  file.stop()
  log.close()
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Starts from these bytes. Either the result is a state that there once was, or there is an error and the file is as it was. */
async function start(bytes: Buffer): Promise<string> {
  writeFileSync(path, bytes)
  const log = new StateLog()
  const segment = Segment.create(1)
  try {
    await loadStateFile(stateFileSettings(path), segment, log.limits, { info() {}, warn() {} })
    await log.adopt(segment)
    expect(digests).toContain(log.position.digest)
    return 'read'
  } catch (error) {
    if (!FdbError.is(error)) throw error
    expect(error.code).toMatch(/^ERR_FDB_STATE_(DAMAGED|FORMAT|LIMIT)$/)
    if (error.code === 'ERR_FDB_STATE_DAMAGED') expect(error.message).toMatch(/offset \d+, after sequence/)
    return error.code
  } finally {
    log.close()
    segment.close()
  }
}

const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })

describe('a damaged state file', () => {
  it('reads whole when nothing is damaged', async () => {
    expect(await start(whole)).toBe('read')
  })

  it('cut at any byte is refused: all of it was synced', async () => {
    for (let cut = 1; cut < whole.length; cut += 31)
      expect(await start(whole.subarray(0, cut))).not.toBe('read')
  })

  it('with any bit flipped gives an error or a state that there was', async () => {
    await fc.assert(
      fc.asyncProperty(place, fc.nat(7), async (at, bit) => {
        const bytes = Buffer.from(whole)
        bytes[Math.floor(at * bytes.length)]! ^= 1 << bit
        await start(bytes)
      }),
      { numRuns: RUNS, seed: SEED },
    )
  })

  it('with bytes replaced, inserted or left out, or blocks in the wrong place, gives an error or a state that there was', async () => {
    await fc.assert(
      fc.asyncProperty(
        place,
        place,
        fc.uint8Array({ maxLength: 40 }),
        fc.nat(40),
        fc.boolean(),
        async (at, other, bytes, gone, block) => {
          const from = Math.floor(at * whole.length)
          const second = Math.floor(other * whole.length)
          const inserted = block ? whole.subarray(second, second + 100) : bytes
          await start(Buffer.concat([whole.subarray(0, from), inserted, whole.subarray(from + gone)]))
        },
      ),
      { numRuns: RUNS, seed: SEED },
    )
  })
})
