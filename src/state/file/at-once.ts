import { closeSync, fdatasyncSync, fstatSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { native } from '../../native.js'
import { headerFrame } from '../segment.js'
import type { StateLog } from '../state-log.js'
import type { FileCopy } from './copy.js'
import {
  besidePath,
  CREATE,
  checkService,
  type Kind,
  newMode,
  openStateFile,
  syncFolderNow,
} from './place.js'

/**
 * Brings all of the log to the state file and the disk in one go: at the end of a process, where no turn of the event loop comes any
 * more. `file`: what it is, as far as this process knows; `installing`: what a thread may be putting in its place just now.
 */
export function finishAtOnce(
  path: string,
  log: StateLog,
  kind: Kind,
  { file, installing }: { file: FileCopy | null; installing: FileCopy | null },
): void {
  if (installing?.finishNow(log)) installing.installNow(path)
  else if (file?.isAtNow(path) && file.finishNow(log)) return
  else if (log.pieces().length > 0) writeStateFileNow(path, log, kind)
}

const CHUNK = 1024 * 1024

/** The whole log, in a new file. */
function writeStateFileNow(path: string, log: StateLog, { secret, service }: Kind): void {
  using present = openStateFile(path)
  if (present !== null) checkService(path, present, service)
  const mode = newMode(present && fstatSync(present.raw), secret)
  const beside = besidePath(path)
  const fd = openSync(beside, CREATE, mode)
  try {
    const write = (bytes: Buffer) => {
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
    }
    for (const [i, { segment, end }] of log.pieces().entries()) {
      write(headerFrame(segment.epoch, segment.kind, i === 0 ? service : ''))
      for (let from = segment.start; from < end; from += CHUNK) {
        const bytes = Buffer.allocUnsafe(Math.min(CHUNK, end - from))
        native.pread(segment.fd.raw, bytes, 0, bytes.length, from)
        write(bytes)
      }
    }
    fdatasyncSync(fd)
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
  syncFolderNow(path)
}
