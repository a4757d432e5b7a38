import { rmSync } from 'node:fs'
import { FdbError } from '../../errors.js'
import { sizeOf, statOf, tryLock } from '../../kernel/index.js'
import { limitsToRead } from '../limits.js'
import { Segment } from '../segment.js'
import { StateLog } from '../state-log.js'
import { finishAtOnce } from './copy.js'
import { openStateFile, serviceOfFile, stateFileSettings, syncFolderNow } from './files.js'
import { type Damage, loadStateFile } from './load.js'

export interface RepairResult {
  /** If null, the file is undamaged and was not changed. */
  readonly damage: Damage | null
  readonly entries: number
  /** The sequence number of the last change before the damage, as in the damaged file. */
  readonly kept: number
}

/**
 * Replaces a damaged state file by the records before the damage, if any, and keeps the damaged file under another name. Rejects with
 * ERR_FDB_STATE_FILE if the file does not exist, a process is writing it, or it belongs to another user; otherwise as {@link loadStateFile} does.
 */
export async function repairStateFile(path: string): Promise<RepairResult> {
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
  const refuse = (reason: string) =>
    new FdbError('ERR_FDB_STATE_FILE', `${path} ${reason}`, { details: { path } })
  using fd = openStateFile(path)
  if (fd === null) throw refuse('does not exist: give the path of a state file')
  const { uid } = statOf(fd)
  const own = process.geteuid?.() ?? uid
  if (uid !== own)
    throw refuse(
      `belongs to user ${uid}, but this process runs as user ${own}: run the command as user ${uid}`,
    )
  if (!tryLock(fd))
    throw refuse('is written by a running process, which has the whole state in memory: no repair is needed')
  return { service: serviceOfFile(fd), bytes: sizeOf(fd) }
}
