import { readdirSync, readFileSync } from 'node:fs'

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
    // One of them is the descriptor that reads the folder.
    return readdirSync('/proc/self/fd').length - 1
  } catch {
    return null
  }
}
