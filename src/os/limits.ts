import { readdirSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { makeRoom, procText } from '../kernel/index.js'

export interface FdLimits {
  /** RLIMIT_NOFILE; Infinity for "unlimited"; null without /proc. */
  soft: number | null
  hard: number | null
  /** Number of open descriptors of this process; null without /proc. */
  open: number | null
}

const OWN_FOLDER = '/proc/self/fd'

/** Returns the limits on this process's descriptors, and their current number. Never throws. */
export function fdLimits(): FdLimits {
  const row = /^Max open files\s+(\S+)\s+(\S+)/m.exec(procText('self/limits'))
  if (row !== null) lastLimits = { soft: limit(row[1]!), hard: limit(row[2]!) }
  return { ...lastLimits, open: openFds(OWN_FOLDER) }
}

/** The limits that were last read: a process without a free descriptor cannot open /proc/self/limits. */
let lastLimits: Pick<FdLimits, 'soft' | 'hard'> = { soft: null, hard: null }

/** Number of descriptors for which to make room: a table of this size takes 256 KiB of the kernel's memory. */
const TABLE_SIZE = 32_768

/** Enlarges the kernel's descriptor table before many connections move to this process: growing it meanwhile would stall the event loop. */
export function makeRoomForDescriptors(): void {
  try {
    void makeRoom(Math.min(TABLE_SIZE, fdLimits().soft ?? 0))
  } catch {
    // The kernel enlarges the table when it is full.
  }
}

/** Returns how many descriptors a process has open; null if unknown (no /proc, another user, or another PID namespace). */
export function descriptorsOf(pid: number): number | null {
  return pid > 0 ? openFds(`/proc/${pid}/fd`) : null
}

/** Returns an error if the incumbent has more descriptors open (`needed`) than this process may have, which must take them; else null. */
export function tooFewDescriptors(needed: number, incumbent: number): FdbError | null {
  const { soft } = fdLimits()
  if (soft === null || soft >= needed) return null
  return new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `process ${incumbent}, which serves, has ${needed} descriptors open, and process ${process.pid} may have ${soft}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) to at least ${needed}, and start the upgrade again`,
    { details: { needed, soft } },
  )
}

const NO_MEMORY: ReadonlySet<string> = new Set(['ENOMEM', 'ENOSPC', 'ENOBUFS'])

/** Returns the error for a system call that failed because no descriptor, or no memory, was free. `what` names the consequence. */
export function outOfDescriptors(what: string, cause: unknown): FdbError {
  if (FdbError.is(cause)) return cause
  const { open, soft } = fdLimits()
  const { code = String(cause) } = cause as Partial<NodeJS.ErrnoException>
  return new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    NO_MEMORY.has(code)
      ? `${what} (${code}): the kernel has no memory for it: free memory${code === 'ENOSPC' ? ', or raise fs.epoll.max_user_watches,' : ''} and try again`
      : `${what} (${code}): process ${process.pid} has ${open ?? 'an unknown number of'} descriptors open and may have ${soft ?? 'no more'}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again`,
    { cause, retryable: true, details: { open, soft } },
  )
}

function limit(text: string): number {
  return text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text)
}

function openFds(folder: string): number | null {
  try {
    // Since Linux 6.2 the folder's size is the number of descriptors. Listing them takes 1 ms per thousand.
    const { size } = statSync(folder)
    if (size > 0) return size
    // The list of this process includes the descriptor by which the folder is read.
    return readdirSync(folder).length - (folder === OWN_FOLDER ? 1 : 0)
  } catch {
    return null
  }
}

/** Returns the resident memory of this process in bytes; null without /proc. */
export function residentBytes(): number | null {
  try {
    return process.memoryUsage.rss()
  } catch {
    return null
  }
}
