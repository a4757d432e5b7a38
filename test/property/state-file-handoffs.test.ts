import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, it, onTestFinished, vi } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { FileCopy } from '../../src/state/file/copy.js'
import { stateFileSettings } from '../../src/state/file/files.js'
import { loadStateFile } from '../../src/state/file/load.js'
import { StateFile } from '../../src/state/file/state-file.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { perLane } from '../lanes/lane.js'
import { randomFrom } from '../processes/random.js'
import { until } from '../processes/until.js'

const SEEDS = perLane(6, 200)
const STEPS = 14
const over = new FdbError('ERR_FDB_FENCED', 'another process serves', { retryable: true })

/** Returns a number from 0 to below 1. */
type Random = () => number

function fractions(seed: number): Random {
  const below = randomFrom(seed)
  return () => below(2 ** 30) / 2 ** 30
}

/** One process of the service, as far as this goes in one process. */
class Version {
  readonly log = new StateLog()
  readonly file: StateFile
  /** Everything that the file has reported. Without a failure of the disk there is nothing to report. */
  readonly reports: string[] = []
  mayWrite = true

  constructor(path: string, sync: number | 'always' | 'never') {
    const warn = ({ err }: { err?: Error }, message: string) =>
      this.reports.push(`${message} ${err?.message}`)
    const logger = { info() {}, warn: warn as (facts: object, message: string) => void }
    this.file = new StateFile(stateFileSettings({ path, sync }), this.log, logger, () => this.mayWrite)
  }

  change(random: Random, value: number): void {
    const size = random() < 0.1 ? 300_000 : 20
    const key = `k${Math.floor(random() * 10)}`
    this.log
      .section('s')
      .put(key, Buffer.alloc(size, value))
      .catch(() => {})
  }

  /** A flush is fenced if the next process has taken over, and fails for no other reason. */
  flush(): void {
    this.file.flush().catch(({ code, message }: FdbError) => {
      if (code !== 'ERR_FDB_FENCED') this.reports.push(`a flush failed: ${message}`)
    })
  }

  close(): void {
    this.file.stop()
    this.log.close()
  }
}

/** Makes the disk slow: each step takes some milliseconds now and then. */
function slowDisk(random: Random): void {
  for (const name of ['copyAll', 'sync', 'install', 'isAt'] as const) {
    const step = FileCopy.prototype[name] as (...args: never[]) => Promise<never>
    vi.spyOn(FileCopy.prototype, name).mockImplementation(async function (
      this: FileCopy,
      ...args: unknown[]
    ) {
      if (random() < 0.3) await sleep(random() * 15)
      const result = await step.apply(this, args as never[])
      if (random() < 0.2) await sleep(random() * 10)
      return result
    })
  }
}

/** Versions that replace each other, and take over again, while the disk is slow. */
async function handoffs(seed: number): Promise<void> {
  const random = fractions(seed)
  slowDisk(random)
  const folder = mkdtempSync(join(tmpdir(), 'fdb-handoffs-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'state')
  const sync = ([1_000, 5, 'always', 'never'] as const)[Math.floor(random() * 4)]!
  const pause = async () => {
    if (random() < 0.4) await sleep(random() * 25)
    else if (random() < 0.5) await nextTurn()
  }
  const versions = [new Version(path, sync)]
  let serving = versions[0]!
  let standby: Version | null = null
  let epoch = 1
  await serving.file.claim(0)
  if (random() < 0.5) await serving.file.prepare()
  serving.log.startWriting(Segment.create(epoch))
  serving.file.serve()

  const started = async () => {
    const next = new Version(path, sync)
    versions.push(next)
    for (const segment of serving.log.segments.map(each => each.readOnly())) await next.log.adopt(segment)
    void next.file.prepare()
    await pause()
    return next
  }
  const replaceBy = async (next: Version) => {
    const before = serving
    before.log.pauseWriting()
    await pause()
    before.log.segments.at(-1)!.seal()
    before.mayWrite = false
    const stop = () => {
      if (!before.mayWrite) before.file.stop()
    }
    if (random() < 0.5) stop()
    else setTimeout(stop, random() * 10)
    const known = Math.max(...next.log.segments.map(segment => segment.epoch))
    for (const segment of before.log.segments.filter(each => each.epoch > known))
      await next.log.adopt(segment.readOnly())
    await next.log.catchUp()
    next.mayWrite = true
    next.log.startWriting(Segment.create(++epoch))
    next.file.serve()
    before.log.endWriting(over)
    standby = before
    serving = next
  }

  try {
    for (let step = 0; step < STEPS; step++) {
      if (random() < 0.5) {
        for (let n = 0; n < 3; n++) serving.change(random, step)
        if (random() < 0.3) serving.flush()
      } else await replaceBy(standby !== null && random() < 0.5 ? standby : await started())
      await pause()
    }
    serving.change(random, STEPS)
    const written = () => {
      const { behindBytes, ok, sequence, writing } = serving.file.status()
      return ok && writing && behindBytes === 0 && sequence === serving.log.sequence
    }
    await until(`seed ${seed}: the file has all changes`, written, 10_000)
    await serving.file.flush()
    expect(`${seed} ${await digestOf(path)}`).toBe(`${seed} ${serving.log.position.digest}`)
    expect({ seed, reports: versions.flatMap(({ reports }) => reports) }).toEqual({ seed, reports: [] })
    serving.file.stop()
    await until(`seed ${seed}: no other file is left`, () => readdirSync(folder).length === 1)
  } finally {
    for (const version of versions) version.close()
    vi.restoreAllMocks()
  }
}

async function digestOf(path: string): Promise<string> {
  const log = new StateLog()
  const segment = Segment.create(1)
  try {
    await loadStateFile(stateFileSettings(path), segment, log.limits, { info() {}, warn() {} })
    await log.adopt(segment)
    return log.position.digest
  } finally {
    log.close()
  }
}

afterEach(() => vi.restoreAllMocks())

it('a state file has all changes, and reports no failure, whichever versions replace each other or take over again while the disk is slow', {
  timeout: 200_000,
}, async () => {
  for (let seed = 1; seed <= SEEDS; seed++) await handoffs(seed)
})
