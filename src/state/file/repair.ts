import { rmSync } from 'node:fs'
import { FdbError } from '../../errors.js'
import { sizeOf, statOf, tryLock } from '../../kernel/index.js'
import { limitsToRead } from '../limits.js'
import { Segment } from '../segment.js'
import { StateLog } from '../state-log.js'
import { finishAtOnce } from './at-once.js'
import { type Damage, loadStateFile } from './load.js'
import { openStateFile, serviceIn, stateFileSettings, syncFolderNow } from './place.js'

export interface Repaired {
  /** Null: undamaged, and unchanged. */
  readonly damage: Damage | null
  readonly entries: number
  /** The last change before the damage, by the damaged file's numbers. */
  readonly kept: number
}

/**
 * Replaces a damaged state file by the part before the damage, if any, and keeps the damaged file under another name. Rejects with ERR_FDB_STATE_FILE if there
 * is no file, a process is writing it, or it is another user's; otherwise as {@link loadStateFile}.
 */
export async function repairStateFile(path: string): Promise<Repaired> {
  const { service, bytes } = checkRepairable(path)
  const log = new StateLog({ limits: limitsToRead(bytes) })
  const segment = Segment.create(1)
  try {
    const settings = stateFileSettings({ path, damaged: 'prefix' }, service)
    const damage = await loadStateFile(settings, segment, log.limits, { info() {}, warn() {} })
    if (segment.end > segment.start) await log.adopt(segment)
    const { entries } = log.stats()
    const { sequence } = log
    if (damage !== null) {
      if (log.pieces().length === 0) {
        rmSync(path, { force: true })
        syncFolderNow(path)
      } else finishAtOnce(path, log, { secret: log.secret, service }, { file: null, installing: null })
    }
    const at = damage?.cause.details.sequence
    return { damage, entries, kept: typeof at === 'number' ? at : sequence }
  } finally {
    log.close()
    segment.close()
  }
}

function checkRepairable(path: string): { service: string; bytes: number } {
  const refuse = (why: string) => new FdbError('ERR_FDB_STATE_FILE', `${path} ${why}`, { details: { path } })
  using fd = openStateFile(path)
  if (fd === null) throw refuse('is not there: give the path of a state file')
  const { uid } = statOf(fd)
  const own = process.geteuid?.() ?? uid
  if (uid !== own) throw refuse(`belongs to user ${uid}, this process is of user ${own}: run it as that user`)
  if (!tryLock(fd)) throw refuse('is written by a running process, which has all of the state in memory')
  return { service: serviceIn(fd), bytes: sizeOf(fd) }
}
