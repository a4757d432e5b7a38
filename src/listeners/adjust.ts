import { chmodSync, chownSync, lstatSync } from 'node:fs'
import {
  type Inspected,
  inspectOne,
  listen,
  namesSocket,
  type OwnedFd,
  setSocketOption,
} from '../kernel/index.js'
import type { ListenerSpec } from './spec.js'

/** An option of a listener that differs from the wanted one. */
export interface OptionChange {
  readonly option: 'backlog' | 'mode' | 'owner' | 'reuseAddr' | 'reusePort' | 'ipv6Only'
  readonly applied: boolean
  /** If not applied: the cause and the remedy. */
  readonly reason?: string
}

/**
 * Returns the current options of a socket and its path. `spec` must be the specification that was applied last: it has the options that the
 * kernel does not report.
 */
export function currentOptions(fd: OwnedFd, spec: ListenerSpec): ListenerSpec {
  if (spec.kind === 'unix') {
    const { path, abstract } = spec
    const stat = abstract || namesSocket(fd, path) === false ? undefined : statPath(path)
    return stat?.isSocket ? { ...spec, mode: stat.mode & 0o777, uid: stat.uid, gid: stat.gid } : spec
  }
  const { reuseAddr = spec.reuseAddr, reusePort = spec.reusePort } = inspectOne(fd)
  return { ...spec, reuseAddr, reusePort }
}

/**
 * Changes the options of a bound, shared socket to those of `wanted`, as far as the kernel allows it, and returns the changes. Affects all processes
 * that share the socket: call it only after the commit. `before` is the specification of the previous version. If it is unknown (null), sets
 * the backlog without reporting a change.
 */
export function adjustListener(
  fd: OwnedFd,
  now: Inspected,
  before: ListenerSpec | null,
  wanted: ListenerSpec,
): OptionChange[] {
  const changes: OptionChange[] = []
  if (wanted.kind !== 'udp' && before?.backlog !== wanted.backlog) {
    // The kernel applies the new backlog and keeps all waiting connections (measured on Linux).
    listen(fd, wanted.backlog)
    if (before !== null) changes.push({ option: 'backlog', applied: true })
  }
  if (wanted.kind === 'unix') {
    if (!wanted.abstract) changes.push(...adjustPath(fd, wanted))
    return changes
  }
  for (const option of ['reuseAddr', 'reusePort'] as const) {
    if (now[option] === undefined || now[option] === wanted[option]) continue
    // Node sets reuseAddr on each datagram socket that it opens, and its effect on a bound one is none.
    if (wanted.kind === 'udp' && before?.[option] === wanted[option]) continue
    changes.push(
      tryToChange(
        option,
        () => setSocketOption(fd, option, wanted[option]),
        why => `the kernel refuses it on a bound socket (${why}); bind another address`,
      ),
    )
  }
  // Only the address :: can take IPv4 too: of any other one the option changes nothing.
  const matters = now.family === 'inet6' && wanted.host === '::'
  if (matters && now.ipv6Only !== undefined && now.ipv6Only !== wanted.ipv6Only) {
    changes.push({
      option: 'ipv6Only',
      applied: false,
      reason:
        'the kernel cannot change it after bind; use a new listener with another name and address instead',
    })
  }
  return changes
}

/** Changes permissions and owner of the socket's file, unless the path belongs to another socket. */
function adjustPath(fd: OwnedFd, wanted: ListenerSpec): OptionChange[] {
  const { path, mode, uid, gid } = wanted
  const stat = statPath(path)
  if (!stat?.isSocket) return []
  const changes: OptionChange[] = []
  const attempt = (option: 'mode' | 'owner', act: () => void) => {
    if (namesSocket(fd, path) === false) {
      const reason = `${path} no longer belongs to this socket: another program may have replaced it; bind another path`
      changes.push({ option, applied: false, reason })
      return
    }
    changes.push(tryToChange(option, act, why => `${why}; run as root or as the owner`))
  }
  if (mode !== undefined && (stat.mode & 0o777) !== mode) attempt('mode', () => chmodSync(path, mode))
  if ((uid !== undefined && uid !== stat.uid) || (gid !== undefined && gid !== stat.gid)) {
    attempt('owner', () => chownSync(path, uid ?? stat.uid, gid ?? stat.gid))
  }
  return changes
}

function tryToChange(
  option: OptionChange['option'],
  act: () => void,
  reason: (why: string) => string,
): OptionChange {
  try {
    act()
    return { option, applied: true }
  } catch (error) {
    return { option, applied: false, reason: reason((error as Error).message) }
  }
}

interface PathFacts {
  readonly isSocket: boolean
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/** Returns undefined if the path does not exist, or this process cannot examine it. */
function statPath(path: string): PathFacts | undefined {
  try {
    const stat = lstatSync(path, { bigint: true })
    return {
      isSocket: stat.isSocket(),
      mode: Number(stat.mode),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
    }
  } catch {
    return undefined
  }
}
