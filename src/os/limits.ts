import { readdirSync, readFileSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { makeRoom } from '../kernel/index.js'

export interface FdLimits {
  /** RLIMIT_NOFILE; Infinity for "unlimited"; null where there is no /proc. */
  soft: number | null
  hard: number | null
  /** Descriptors that this process has open now; null where there is no /proc. */
  open: number | null
}

const OWN_FOLDER = '/proc/self/fd'

/** The limits on descriptors of this process, and how many it uses. Never throws. */
export function fdLimits(): FdLimits {
  const row = /^Max open files\s+(\S+)\s+(\S+)/m.exec(read('/proc/self/limits'))
  if (row !== null) known = { soft: limit(row[1]!), hard: limit(row[2]!) }
  return { ...known, open: openFds(OWN_FOLDER) }
}

/** As they were read last: a process that has no descriptor left cannot read them. */
let known: Pick<FdLimits, 'soft' | 'hard'> = { soft: null, hard: null }

/** Takes 256 KiB of the kernel's memory. */
const ROOM = 32_768

/** Room is made before connections of another process come in great number, so that their coming does not stop the event loop. */
export function makeRoomForDescriptors(): void {
  try {
    void makeRoom(Math.min(ROOM, fdLimits().soft ?? 0))
  } catch {
    // Room is then made when it is needed.
  }
}

/** Descriptors that a process has open; null where that cannot be known: no /proc, another user's, or another PID namespace. */
export function descriptorsOf(pid: number): number | null {
  return pid > 0 ? openFds(`/proc/${pid}/fd`) : null
}

/** A process that may have fewer descriptors than the one that it replaces would serve a part of its clients. Null: it may have as many. */
export function tooFewFor(needed: number, incumbent: number): FdbError | null {
  const { soft } = fdLimits()
  if (soft === null || soft >= needed) return null
  return new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `process ${incumbent}, which serves, has ${needed} descriptors open, and process ${process.pid} may have ${soft}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) to at least ${needed}, and start the upgrade again`,
    { details: { needed, soft } },
  )
}

/** `what` cannot be, as a system call for a descriptor has failed. */
export function noDescriptors(what: string, cause: unknown): FdbError {
  if (FdbError.is(cause)) return cause
  const { open, soft } = fdLimits()
  const { code = String(cause) } = cause as Partial<NodeJS.ErrnoException>
  return new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `${what} (${code}): process ${process.pid} has ${open ?? 'an unknown number of'} descriptors open and may have ${soft ?? 'an unknown number'}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again`,
    { cause, retryable: true, details: { open, soft } },
  )
}

function limit(text: string): number {
  return text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text)
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

function openFds(folder: string): number | null {
  try {
    // Linux 6.2 counts them itself; to read the folder takes 1 ms a thousand.
    const { size } = statSync(folder)
    if (size > 0) return size
    // In this process one of them is the descriptor that reads the folder.
    return readdirSync(folder).length - (folder === OWN_FOLDER ? 1 : 0)
  } catch {
    return null
  }
}

/** Resident memory of this process; null without /proc. */
export function residentBytes(): number | null {
  try {
    return process.memoryUsage.rss()
  } catch {
    return null
  }
}
