import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { changed } from '../fixtures/disk-changes.js'
import { seeded } from '../fixtures/seeded.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { bundled, shared } from '../processes/bundled.js'
import { eventsOf, type Fate, SimulatedDisk } from '../processes/simulated-disk.js'

/** `npm run soak -- disk` gives more of both, and another seed. */
const FATES = Number(process.env.FDB_DISK_FATES ?? perLane(2, 6))
const SEED = Number(process.env.FDB_DISK_SEED ?? 32)
const ERRORS = process.env.FDB_DISK_ERRORS === 'all' ? (['EIO', 'ENOSPC'] as const) : (['EIO'] as const)

const RECORDER = fileURLToPath(new URL('../fixtures/disk-recorder.c', import.meta.url))

/** Runs disk-scenarios.ts under the recorder. */
function run(how: string, ...given: string[]): { folder: string; out: string; record: string } {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-cuts-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const files = join(folder, 'files')
  mkdirSync(files)
  const library = shared('disk-recorder.so', built => {
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', built, RECORDER, '-ldl', '-lpthread'])
  })
  const { file, env } = bundled('disk-scenarios.ts')
  const { stdout, stderr, status } = spawnSync(process.execPath, [file, how, files, ...given], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: {
      ...env,
      LD_PRELOAD: library,
      FDB_DISK_UNDER: files,
      ...(how === 'record' && { FDB_DISK_RECORD: join(folder, 'record') }),
      FDB_DISK_FAIL: join(folder, 'fail'),
    },
  })
  expect({ status, stderr }).toMatchObject({ status: 0 })
  return { folder, out: stdout, record: how === 'record' ? readFileSync(join(folder, 'record'), 'utf8') : '' }
}

const quiet = { info() {}, warn() {} }

/** How many changes a first process finds. */
async function found(path: string, bytes: Buffer | null): Promise<number> {
  if (bytes === null) return 0
  writeFileSync(path, bytes)
  const log = new StateLog()
  const segment = Segment.create(1)
  try {
    await loadStateFile(stateFileSettings(path), segment, log.limits, quiet)
    if (segment.end > segment.start) await log.adopt(segment)
    return changed(log.section('changed'))
  } finally {
    log.close()
    segment.close()
  }
}

function fates(): Fate[] {
  const random = seeded(SEED)
  const some = (likely: number): Fate => ({
    upTo: count => random(count + 1),
    has: () => random(100) < likely,
  })
  const all: Fate = { upTo: count => count, has: () => true }
  const none: Fate = { upTo: () => 0, has: () => false }
  // The lengths are known to the disk, the bytes are not; and all but a sector now and then.
  const holes: Fate = { upTo: count => count, has: () => false }
  const gaps: Fate = { upTo: count => count, has: () => random(100) < 80 }
  return [all, none, holes, gaps, ...Array.from({ length: FATES - 4 }, (_, i) => some(i % 2 === 0 ? 50 : 90))]
}

it('a power cut at any moment, whatever sectors it drops, leaves a state file that starts with every durable change', async () => {
  const { folder, out, record } = run('record')
  const events = eventsOf(record)
  const disk = new SimulatedDisk()
  const path = join(folder, 'after')
  let acknowledgements = 0
  let acknowledged = 0
  let cuts = 0
  for (const [i, event] of events.entries()) {
    if (event.kind === 'name' && event.name === 'acknowledged') acknowledgements = event.inode
    if ('inode' in event && event.inode === acknowledgements) {
      if (event.kind === 'write') acknowledged = Number(event.bytes.toString())
      continue
    }
    disk.add(event)
    for (const [n, fate] of fates().entries()) {
      const made = await found(path, disk.after('state', fate)).catch((error: Error) => error.message)
      const what = {
        seed: SEED,
        fate: n,
        behind: `event ${i} of ${events.length}: ${event.kind}`,
        acknowledged,
        made,
      }
      expect({ ...what, lost: typeof made !== 'number' || made < acknowledged }).toMatchObject({
        lost: false,
      })
      cuts++
    }
  }
  const all = await found(path, disk.after('state', { upTo: () => 0, has: () => false }))
  // The end of the process brings the last changes to the disk, which are not durable.
  expect(all).toBe(Number(out))
  expect(acknowledged).toBeGreaterThan(5)
  expect(existsSync(path)).toBe(true)
  console.log(`seed ${SEED}: ${cuts} power cuts behind ${events.length} calls`)
}, 600_000)

it.runIf(NIGHTLY).each(ERRORS)(
  '%s of any call loses no durable change, and the file is made whole afterwards',
  error => {
    const { out: whole, record } = run('record')
    expect(Number(whole)).toBeGreaterThan(5)
    // The calls that can fail, and some more, as the failed one is tried again.
    const calls = record.split('\n').filter(line => /^(write|truncate|sync|folder|name)/.test(line)).length
    expect(calls).toBeGreaterThan(20)
    console.log(`${error} of each of ${calls} calls`)
    const { out } = run('fail', '1', `${calls}`, `${constants.errno[error]}`)
    expect(out).toBe('all were tried\n')
  },
  600_000,
)
