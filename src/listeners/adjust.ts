import { chmodSync, chownSync, lstatSync } from 'node:fs'
import { type Inspected, listen, namesSocket, type OwnedFd, setSocketOption } from '../kernel/index.js'
import type { ListenerSpec } from './spec.js'

/** listen() again: the kernel takes the new backlog and drops nobody who waits (measured: shared/kernel facts, Linux). */
export function setBacklog(fd: OwnedFd, backlog: number): void {
  if (backlog > 0) listen(fd, backlog)
}

/** One option of a listener that is not as asked for any more. */
export interface OptionChange {
  readonly option: 'backlog' | 'mode' | 'owner' | 'reuseAddr' | 'reusePort' | 'ipv6Only'
  readonly applied: boolean
  /** Why not, with the remedy. */
  readonly reason?: string
}

/**
 * Brings an adopted listener to another version's spec where the kernel allows it on a bound socket, and says what
 * it did. Before: the spec it was asked for with by the version before; null: unknown.
 */
export function adjustListener(
  fd: OwnedFd,
  now: Inspected,
  before: ListenerSpec | null,
  wanted: ListenerSpec,
): OptionChange[] {
  const changes: OptionChange[] = []
  if (wanted.kind !== 'udp' && before !== null && before.backlog !== wanted.backlog) {
    setBacklog(fd, wanted.backlog)
    changes.push({ option: 'backlog', applied: true })
  }
  if (wanted.kind === 'unix') {
    if (!wanted.abstract) changes.push(...adjustPath(fd, wanted))
    return changes
  }
  for (const option of ['reuseAddr', 'reusePort'] as const) {
    if (now[option] === undefined || now[option] === wanted[option]) continue
    try {
      setSocketOption(fd, option, wanted[option])
      changes.push({ option, applied: true })
    } catch (error) {
      changes.push({
        option,
        applied: false,
        reason: `the kernel refuses it on a bound socket (${(error as Error).message}); bind another address`,
      })
    }
  }
  if (now.family === 'inet6' && now.ipv6Only !== undefined && now.ipv6Only !== wanted.ipv6Only) {
    changes.push({
      option: 'ipv6Only',
      applied: false,
      reason: 'the kernel fixes it at bind; give the listener another name and address, and drop this one',
    })
  }
  return changes
}

/** The file's permissions and owner: not where the kernel says that the path is not this socket's. */
function adjustPath(fd: OwnedFd, wanted: ListenerSpec): OptionChange[] {
  const { path, mode, uid, gid } = wanted
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (!stat?.isSocket()) return []
  const changes: OptionChange[] = []
  const attempt = (option: 'mode' | 'owner', act: () => void) => {
    if (namesSocket(fd, path) === false) {
      const reason = `the kernel does not know ${path} as this socket's: another may have its place; bind another path`
      changes.push({ option, applied: false, reason })
      return
    }
    try {
      act()
      changes.push({ option, applied: true })
    } catch (error) {
      changes.push({
        option,
        applied: false,
        reason: `${(error as Error).message}; run as root or as the owner`,
      })
    }
  }
  if (mode !== undefined && (stat.mode & 0o777) !== mode) attempt('mode', () => chmodSync(path, mode))
  if ((uid !== undefined && uid !== stat.uid) || (gid !== undefined && gid !== stat.gid)) {
    attempt('owner', () => chownSync(path, uid ?? stat.uid, gid ?? stat.gid))
  }
  return changes
}
