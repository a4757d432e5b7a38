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

/** The limits on descriptors of this process, and how many it uses. Never throws. */
export function fdLimits(): FdLimits {
  const row = /^Max open files\s+(\S+)\s+(\S+)/m.exec(read('/proc/self/limits'))
  return {
    soft: row === null ? null : limit(row[1]!),
    hard: row === null ? null : limit(row[2]!),
    open: openFds(),
  }
}

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

/** `what` cannot be, as a system call for a descriptor has failed. */
export function noDescriptors(what: string, cause: unknown): FdbError {
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

function openFds(): number | null {
  try {
    // Linux 6.2 counts them itself; to read the folder takes 1 ms a thousand.
    const { size } = statSync('/proc/self/fd')
    if (size > 0) return size
    // One of them is the descriptor that reads the folder.
    return readdirSync('/proc/self/fd').length - 1
  } catch {
    return null
  }
}
