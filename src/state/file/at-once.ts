import { renameSync, rmSync } from 'node:fs'
import { openFile, statOf, syncData, writeAllAt } from '../../kernel/index.js'
import type { StateLog } from '../state-log.js'
import type { FileCopy } from './copy.js'
import { FileEncoder } from './encoder.js'
import {
  CREATE,
  checkService,
  newMode,
  openStateFile,
  type StateFileKind,
  syncFolderNow,
  temporaryPath,
} from './files.js'

/** Brings the state file up to date and syncs it, synchronously, at the end of a process. `installing` is a copy that a thread may be renaming at this moment. */
export function finishAtOnce(
  path: string,
  log: StateLog,
  kind: StateFileKind,
  { file, installing }: { file: FileCopy | null; installing: FileCopy | null },
): void {
  if (installing?.finishNow(log)) installing.installNow(path)
  else if (file?.isAtNow(path) && file.finishNow(log)) return
  else if (log.pieces().length > 0) writeStateFileNow(path, log, kind)
}

function writeStateFileNow(path: string, log: StateLog, kind: StateFileKind): void {
  using present = openStateFile(path)
  if (present !== null) checkService(path, present, kind.service)
  const mode = newMode(present && statOf(present), kind.secret)
  const beside = temporaryPath(path)
  using fd = openFile(beside, CREATE, `new state file ${beside}`, mode)
  try {
    const encoder = new FileEncoder(kind)
    for (let next = encoder.next(log); next !== 0 && next !== null; next = encoder.next(log)) {
      writeAllAt(fd, next.bytes, encoder.size)
      next.onWritten()
    }
    const mark = encoder.nextMark()
    if (mark !== null) writeAllAt(fd, mark.bytes, mark.at)
    syncData(fd)
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  }
  syncFolderNow(path)
}
