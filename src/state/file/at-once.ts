import { renameSync, rmSync } from 'node:fs'
import { openFile, readAt, statOf, syncData, writeAllAt } from '../../kernel/index.js'
import { headerFrame } from '../segment.js'
import type { StateLog } from '../state-log.js'
import type { FileCopy } from './copy.js'
import {
  CREATE,
  checkService,
  newMode,
  openStateFile,
  type StateFileKind,
  syncFolderNow,
  temporaryPath,
} from './files.js'
import { firstMarks, MARKS, MarkSlots } from './marks.js'

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

const CHUNK = 1024 * 1024

function writeStateFileNow(path: string, log: StateLog, { secret, service }: StateFileKind): void {
  using present = openStateFile(path)
  if (present !== null) checkService(path, present, service)
  const mode = newMode(present && statOf(present), secret)
  const beside = temporaryPath(path)
  using fd = openFile(beside, CREATE, `new state file ${beside}`, mode)
  try {
    let at = 0
    const write = (bytes: Buffer) => {
      writeAllAt(fd, bytes, at)
      at += bytes.length
    }
    let slots: MarkSlots | null = null
    const writeMarks = (epoch: number) => {
      const marks = new MarkSlots(epoch, at)
      write(firstMarks(epoch))
      return marks
    }
    let reached = 0
    for (const [i, { segment, end, sequence }] of log.pieces().entries()) {
      write(headerFrame(segment.epoch, segment.kind, i === 0 ? { service, marks: MARKS } : {}))
      if (segment.kind === 'epoch') slots ??= writeMarks(segment.epoch)
      for (let from = segment.start; from < end; from += CHUNK) {
        const bytes = Buffer.allocUnsafe(Math.min(CHUNK, end - from))
        readAt(segment.fd, bytes, 0, bytes.length, from)
        write(bytes)
      }
      slots ??= writeMarks(segment.epoch)
      reached = sequence
    }
    const mark = slots?.next({ length: at, sequence: reached })
    if (mark) writeAllAt(fd, mark.bytes, mark.at)
    syncData(fd)
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  }
  syncFolderNow(path)
}
