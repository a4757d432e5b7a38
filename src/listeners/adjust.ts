import { chmodSync, chownSync, lstatSync, type Stats } from 'node:fs'
import {
  type Inspected,
  inspectOne,
  listen,
  namesSocket,
  type OwnedFd,
  setSocketOption,
} from '../kernel/index.js'
import type { ListenerSpec } from './spec.js'

/** Calls listen() again: the kernel takes the new backlog and keeps all waiting connections (measured on Linux). */
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

/** The options that a socket and its path have now; where they cannot be read, those of `spec`, with which it was bound or adjusted last. */
export function optionsNow(fd: OwnedFd, spec: ListenerSpec): ListenerSpec {
  if (spec.kind === 'unix') {
    const { path, abstract } = spec
    const stat = abstract || namesSocket(fd, path) === false ? undefined : lookAt(path)
    return stat?.isSocket() ? { ...spec, mode: stat.mode & 0o777, uid: stat.uid, gid: stat.gid } : spec
  }
  const { reuseAddr = spec.reuseAddr, reusePort = spec.reusePort } = inspectOne(fd)
  return { ...spec, reuseAddr, reusePort }
}

/**
 * Brings a shared listener to a version's spec where the kernel allows it on a bound socket, and says what it did. It acts at once on all
 * that share the socket: call it behind the commit only. Before: the spec of the version before; null: unknown, so that its backlog is set unsaid.
 */
export function adjustListener(
  fd: OwnedFd,
  now: Inspected,
  before: ListenerSpec | null,
  wanted: ListenerSpec,
): OptionChange[] {
  const changes: OptionChange[] = []
  if (wanted.kind !== 'udp' && before?.backlog !== wanted.backlog) {
    setBacklog(fd, wanted.backlog)
    if (before !== null) changes.push({ option: 'backlog', applied: true })
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
  const stat = lookAt(path)
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

function lookAt(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}
