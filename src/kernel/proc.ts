import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'

/** The CPU time is checked after this many descriptors. */
const READS_BETWEEN = 128

type OpenFiles = [number: string, target: string][]

/** Returns all visible processes; none without /proc or a free descriptor. */
export function processes(): number[] {
  try {
    return readdirSync('/proc').map(Number).filter(Number.isInteger)
  } catch {
    return []
  }
}

/** Returns the text of a file in /proc, such as `self/limits`; '' if this process cannot read it. */
export function procText(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'latin1')
  } catch {
    return ''
  }
}

/** The variables with which a process was started, `NAME=value`. */
export interface StartEnvironment {
  readonly variables: readonly string[]
  /** False if only the first bytes were read. */
  readonly isWhole: boolean
}

/** Number of bytes of an environment that are read: that of another user's process may be large. */
const MOST_ENVIRONMENT = 65_536

/** Returns null if this process may not read them, or if the process has ended. */
export function environmentOf(pid: number): StartEnvironment | null {
  const bytes = Buffer.alloc(MOST_ENVIRONMENT)
  let length = 0
  try {
    const file = openSync(`/proc/${pid}/environ`, 'r')
    try {
      length = readSync(file, bytes)
    } finally {
      closeSync(file)
    }
  } catch {
    return null
  }
  // An ended process that is not reaped yet has none.
  if (length === 0) return null
  return { variables: bytes.toString('latin1', 0, length).split('\0'), isWhole: length < MOST_ENVIRONMENT }
}

/** Returns the descriptors of a process with their targets, such as `socket:[123]` or a path; null if this process may not read them. */
export function openFilesOf(pid: number, beforeRead: () => void = () => {}): OpenFiles | null {
  let numbers: string[]
  try {
    numbers = readdirSync(`/proc/${pid}/fd`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ESRCH' ? [] : null
  }
  return numbers.flatMap(number => {
    beforeRead()
    const target = openFileOf(pid, number)
    // With null the process has just closed the descriptor.
    return target === null ? [] : [[number, target]]
  })
}

/** Returns the target of one descriptor of a process; null if there is none, or this process may not read it. */
export function openFileOf(pid: number, number: number | string): string | null {
  try {
    return readlinkSync(`/proc/${pid}/fd/${number}`)
  } catch {
    return null
  }
}

/** Returns the path of the file that a process executes; null if this process may not see it. */
export function executableOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/exe`)
  } catch {
    return null
  }
}

class OutOfTime extends Error {}

/** Runs `scan` with a limited {@link openFilesOf}. Returns null if this process has used more than `limitMs` of CPU time for the scan; on a busy machine the scan lasts longer than that. */
export function scanOpenFiles<T>(
  limitMs: number,
  scan: (openFiles: (pid: number) => OpenFiles | null) => T,
): T | null {
  const begun = process.cpuUsage()
  let reads = 0
  const beforeRead = () => {
    if (++reads % READS_BETWEEN !== 0) return
    const { user, system } = process.cpuUsage(begun)
    if ((user + system) / 1000 > limitMs) throw new OutOfTime()
  }
  try {
    return scan(pid => openFilesOf(pid, beforeRead))
  } catch (error) {
    if (error instanceof OutOfTime) return null
    throw error
  }
}
