import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { loadStateFile } from '../../../src/state/file/load.js'
import { repairStateFile } from '../../../src/state/file/repair.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import { headerFrame, parseHeader } from '../../../src/state/segment.js'
import { seeded } from '../../fixtures/seeded.js'
import { Segment, type StateLimits, StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

const quiet = { info() {}, warn() {} }
const SEED = 32

function statePath(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-synced-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return join(folder, 'state')
}

function writing(path: string, limits: Partial<StateLimits> = {}) {
  const log = new StateLog({ limits })
  log.startWriting(Segment.create(1))
  const file = new StateFile(stateFileSettings({ path, sync: 'never' }, 'shop'), log, quiet, () => true)
  file.serve()
  onTestFinished(() => {
    file.stop()
    log.close()
  })
  return { log, file, notes: log.section('notes') }
}

/** A file of 40 changes, 20 of them synced, and how long it was then. */
async function halfSynced(value = (i: number) => Buffer.from(`value ${i}`)) {
  const path = statePath()
  const { log, file, notes } = writing(path)
  for (let i = 0; i < 20; i++) await notes.put(`k${i}`, value(i))
  await file.flush()
  const synced = file.status().bytes
  for (let i = 20; i < 40; i++) await notes.put(`k${i}`, value(i))
  await until('all of it is in the file', () => file.status().behindBytes === 0)
  file.stop()
  log.close()
  const whole = readFileSync(path)
  // Another file: the writer may hold the lock of its own until it is closed.
  rmSync(path)
  writeFileSync(path, whole)
  return { path, synced, whole }
}

/** How many entries a first process begins with. */
async function load(
  path: string,
  limits: Partial<StateLimits> = {},
  damaged: 'refuse' | 'prefix' = 'refuse',
) {
  const log = new StateLog({ limits })
  const segment = Segment.create(1)
  try {
    await loadStateFile(stateFileSettings({ path, damaged }, 'shop'), segment, log.limits, quiet)
    await log.adopt(segment)
    return log.stats().entries
  } finally {
    log.close()
    segment.close()
  }
}

async function refusal(work: Promise<unknown>): Promise<FdbError> {
  const error = await work.then(
    () => expect.fail('it was not refused'),
    (error: unknown) => error,
  )
  if (!FdbError.is(error)) throw error
  return error
}

describe('a state file that is shorter than when it was synced', () => {
  it('causes an error wherever it was cut, with both lengths, and stays as it is', async () => {
    const { path, synced, whole } = await halfSynced()
    const random = seeded(SEED)
    for (let i = 0; i < 200; i++) {
      const cut = 60 + random(synced - 60)
      writeFileSync(path, whole.subarray(0, cut))
      const { code, message, details } = await refusal(load(path))
      expect(code).toBe('ERR_FDB_STATE_DAMAGED')
      if ('synced' in details && details.synced) {
        expect(details).toMatchObject({ bytes: cut, synced: { length: synced, sequence: 20 } })
        expect(message).toContain(
          `the file has ${cut} bytes, but ${synced} bytes, up to sequence 20, were synced`,
        )
      } else expect(message).toContain('its marks are damaged or missing')
      expect(message).toContain(`fd-broker state repair --file ${path}`)
      expect(readFileSync(path).length).toBe(cut)
    }
  })

  it('causes an error when nothing is left of it', async () => {
    const { path } = await halfSynced()
    truncateSync(path, 0)
    expect(await refusal(load(path))).toMatchObject({
      code: 'ERR_FDB_STATE_DAMAGED',
      message: expect.stringMatching(/it is empty.*state repair --file/),
    })
    expect(readdirSync(dirname(path))).toEqual(['state'])
  })

  it('shows after it was written whole at the end of a process, too, and after it was written again', async () => {
    for (const end of ['flush', 'exit'] as const) {
      const path = statePath()
      const { file, notes } = writing(path)
      // All state files of a process share one listener.
      const atExit = process.listeners('exit').find(({ name }) => name === 'runAll')!
      for (let i = 0; i < 20; i++) await notes.put(`k${i}`, Buffer.from('x'))
      if (end === 'flush') await file.flush()
      else atExit(0)
      const whole = readFileSync(path)
      writeFileSync(path, whole.subarray(0, -1))
      expect((await refusal(load(path))).code).toBe('ERR_FDB_STATE_DAMAGED')
    }
  })
})

describe('changes that were not synced', () => {
  it('may be torn anywhere: what stands before the tear is the state', async () => {
    const { path, synced, whole } = await halfSynced()
    for (let cut = synced; cut <= whole.length; cut += 5) {
      writeFileSync(path, whole.subarray(0, cut))
      expect(await load(path)).toBeGreaterThanOrEqual(20)
    }
  })

  it('may be torn in a value that looks like a header, or like a mark', async () => {
    const lookalike = Buffer.alloc(4000, 7)
    const one = headerFrame(9, 'epoch')
    const other = headerFrame(1, 'epoch', { mark: Buffer.alloc(16, 255) })
    one.copy(lookalike, 100)
    other.copy(lookalike, 300)
    const { path, synced, whole } = await halfSynced(i => (i < 20 ? Buffer.from('x') : lookalike))
    for (const bytes of [1000, 3000]) {
      writeFileSync(path, whole.subarray(0, synced + bytes))
      expect(await load(path)).toBe(20)
    }
  })

  it('may be half a mark: the other one counts', async () => {
    const { path, whole } = await halfSynced()
    const marks = [0, 1].map(i =>
      whole.indexOf('fdb-state', i === 0 ? 20 : whole.indexOf('fdb-state', 20) + 1),
    )
    const torn = (...which: number[]) => {
      const bytes = Buffer.from(whole)
      for (const i of which) bytes.fill(255, marks[i]! + 20, marks[i]! + 24)
      writeFileSync(path, bytes)
    }
    for (const i of [0, 1]) {
      torn(i)
      expect(await load(path)).toBe(40)
    }
    torn(0, 1)
    expect((await refusal(load(path))).message).toContain('its marks are damaged or missing')
    expect(await repairStateFile(path)).toMatchObject({ entries: 40, damage: { aside: expect.any(String) } })
    expect(await load(path)).toBe(40)
  })
})

describe('a whole record above a limit of the process that reads it', () => {
  it.each([
    ['recordBytes', { recordBytes: 64 * 1024 }, { recordBytes: 4096 }],
    ['changesPerRecord', {}, { changesPerRecord: 5 }],
  ])(
    'causes an error with the limit and its needed value, also behind the last sync: %s',
    async (limit, writer, reader) => {
      const path = statePath()
      const { log, file, notes } = writing(path, writer)
      await notes.put('first', Buffer.from('x'))
      await file.flush()
      if (limit === 'recordBytes') await notes.put('large', Buffer.alloc(20_000))
      else await notes.bulk(Array.from({ length: 6 }, (_, i) => ({ key: `b${i}`, value: Buffer.from('b') })))
      for (let i = 0; i < 10; i++) await notes.put(`later ${i}`, Buffer.from('acknowledged'))
      await until('all of it is in the file', () => file.status().behindBytes === 0)
      const { entries } = log.stats()
      const before = readFileSync(path)
      const { code, message, details } = await refusal(load(path, reader))
      expect(code).toBe('ERR_FDB_STATE_LIMIT')
      expect(details).toMatchObject({ limit, most: Object.values(reader)[0] })
      expect(message).toContain(`stateLimits with ${limit} of at least ${String(details.got)}`)
      expect(readFileSync(path).equals(before)).toBe(true)
      expect(await load(path, { [limit]: details.got as number })).toBe(entries)
    },
  )

  it('differs from a tear, of which the length says nothing', async () => {
    const { path, synced, whole } = await halfSynced()
    const bytes = Buffer.from(whole)
    // The frame claims 5,000 bytes, and there are as many.
    bytes.writeUInt32LE(5000, synced)
    writeFileSync(path, Buffer.concat([bytes, Buffer.alloc(10_000, 1)]))
    expect(await load(path, { recordBytes: 4096 })).toBe(20)
  })
})

describe('fd-broker state repair', () => {
  it('keeps what stands before the damage, and the damaged file aside; the service starts then', async () => {
    const { path, synced, whole } = await halfSynced()
    const damaged = whole.subarray(0, synced - 3)
    writeFileSync(path, damaged)
    const { damage, entries, kept } = await repairStateFile(path)
    expect({ entries, kept }).toEqual({ entries: 19, kept: 19 })
    expect(readFileSync(damage!.aside).equals(damaged)).toBe(true)
    expect(await load(path)).toBe(19)
    expect(await repairStateFile(path)).toMatchObject({ damage: null, entries: 19 })
    // The file still belongs to this service alone.
    const other = stateFileSettings(path, 'bank')
    const segment = Segment.create(1)
    expect(await refusal(loadStateFile(other, segment, new StateLog().limits, quiet))).toMatchObject({
      code: 'ERR_FDB_STATE_FILE',
    })
    segment.close()
  })

  it('leaves no file where nothing stands before the damage', async () => {
    const { path } = await halfSynced()
    truncateSync(path, 0)
    const { damage, entries } = await repairStateFile(path)
    expect(entries).toBe(0)
    expect(existsSync(damage!.aside)).toBe(true)
    expect(existsSync(path)).toBe(false)
    expect(await load(path)).toBe(0)
  })

  it('refuses a file that a process writes, one that is not there, and what is no state file', async () => {
    const path = statePath()
    expect(await refusal(repairStateFile(path))).toMatchObject({ code: 'ERR_FDB_STATE_FILE' })
    const { file, notes } = writing(path)
    await notes.put('a', Buffer.from('a'))
    await file.flush()
    expect((await refusal(repairStateFile(path))).message).toContain('written by a running process')
    const none = statePath()
    writeFileSync(none, 'routes: []\n')
    expect((await refusal(repairStateFile(none))).code).toBe('ERR_FDB_STATE_FORMAT')
    expect(readFileSync(none, 'utf8')).toBe('routes: []\n')
  })
})

describe('a state file without marks', () => {
  it('causes an error: how much of it was synced is not known', async () => {
    const { path, whole } = await halfSynced()
    const { service, epoch, kind, start } = parseHeader(whole)
    writeFileSync(path, Buffer.concat([headerFrame(epoch, kind, { service }), whole.subarray(start)]))
    const { code, message } = await refusal(load(path))
    expect(code).toBe('ERR_FDB_STATE_FORMAT')
    expect(message).toMatch(/no sync marks.*a release before 0\.4\.0 wrote it/)
  })
})
