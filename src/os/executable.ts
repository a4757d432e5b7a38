import { readlinkSync, realpathSync, statSync } from 'node:fs'
import { hasEnded, type OwnedFd } from '../kernel/index.js'
import { pidOf } from './liveness.js'

/** The program that a process runs. */
export interface Executable {
  /** As it is called in the process's own mount namespace, where nobody else need find it. */
  readonly path: string
  readonly dev: bigint
  readonly ino: bigint
  /** Its mounts are those of this process: the path means the same here. */
  readonly here: boolean
}

const DELETED = ' (deleted)'

/**
 * What the process of a pidfd runs now; null: it has ended, or cannot be looked at. It is read by number in /proc, then the pidfd is
 * asked: a process that has not ended had that number all along, so that no later one can lend it its program.
 */
export function executableOf(pidfd: OwnedFd | null): Executable | null {
  const pid = pidfd === null ? 0 : pidOf(pidfd)
  if (pidfd === null || pid === 0) return null
  try {
    const link = `/proc/${pid}/exe`
    const path = readlinkSync(link)
    const { dev, ino } = statSync(link, { bigint: true })
    const here = readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt')
    return hasEnded(pidfd) ? null : { path, dev, ino, here }
  } catch {
    return null
  }
}

/**
 * Whether it is the program at this path: the same file; or, when that was replaced since, one that was started from there (in
 * another mount namespace a path says nothing).
 */
export function isProgram({ path, dev, ino, here }: Executable, file: string): boolean {
  const there = statSync(file, { bigint: true, throwIfNoEntry: false })
  if (there !== undefined && there.dev === dev && there.ino === ino) return true
  if (!here || !path.endsWith(DELETED)) return false
  const before = path.slice(0, -DELETED.length)
  return before === file || (there !== undefined && before === realpathSync(file))
}
