import { readFileSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'

/** CAP_SYS_PTRACE: the right to look into any process. */
const SYS_PTRACE = 1n << 19n
const REMEDY = 'or as root with CAP_SYS_PTRACE'

/** What decides whether one process may look into another, as /proc tells it; null: it does not. */
export interface TraceFacts {
  /** Real, effective and saved. */
  readonly uids: readonly number[]
  readonly gids: readonly number[]
  readonly permitted: bigint
  readonly effective: bigint
  /** A filter of system calls is on. */
  readonly filtered: boolean
}

export interface Tracing {
  readonly pid: number
  readonly own: TraceFacts
  readonly target: TraceFacts | null
  /** Who owns its descriptors in /proc: root, when it may not be dumped. */
  readonly keeper: number | null
  /** kernel.yama.ptrace_scope; null: this kernel has no Yama. */
  readonly scope: number | null
  /** The errno. */
  readonly code: string
}

/** Which right is missing: `details.right` of ERR_FDB_TRACE. */
export type MissingRight = 'call' | 'user' | 'capability' | 'dumpable' | 'yama' | 'filter' | 'policy'

/**
 * Why the kernel has not let this process look into another one, by the checks of ptrace(2) in the order in which an operator can do
 * something about them.
 */
export function missingRight({ pid, own, target, keeper, scope, code }: Tracing): [MissingRight, string] {
  const them = `process ${pid}`
  if (code === 'ENOSYS')
    return [
      'call',
      'there is no pidfd_getfd here: it needs Linux 5.6, and no filter of system calls (seccomp) that hides it',
    ]
  if (scope !== null && scope >= 3)
    return [
      'yama',
      `kernel.yama.ptrace_scope=${scope} lets nobody look into another process until the machine is started anew`,
    ]
  if ((own.effective & SYS_PTRACE) === 0n) {
    const [uid] = own.uids
    const [gid] = own.gids
    const user = target?.uids.find(each => each !== uid)
    if (user !== undefined)
      return ['user', `${them} runs as uid ${user}, this one as uid ${uid}: run as uid ${user}, ${REMEDY}`]
    const group = target?.gids.find(each => each !== gid)
    if (group !== undefined)
      return [
        'user',
        `${them} runs with gid ${group}, this one with gid ${gid}: run with gid ${group}, ${REMEDY}`,
      ]
    if (target !== null && (target.permitted & ~own.permitted) !== 0n)
      return [
        'capability',
        `${them} has capabilities that this one has not: run with CAP_SYS_PTRACE, or with all that it has`,
      ]
    if (keeper === 0 && uid !== 0)
      return [
        'dumpable',
        `${them} may not be dumped (it has changed its user, or its file has capabilities, or may not be read): run as root with CAP_SYS_PTRACE`,
      ]
    if (scope !== null && scope > 0)
      return [
        'yama',
        `kernel.yama.ptrace_scope=${scope} lets only ${scope === 1 ? 'its ancestors' : 'root'} look into ${them}: run as root with CAP_SYS_PTRACE, or set it to 0 meanwhile`,
      ]
  }
  if (own.filtered)
    return [
      'filter',
      'a filter of system calls (seccomp) forbids pidfd_getfd, as those of container engines do: allow it, or run outside the container',
    ]
  return [
    'policy',
    `a security module (AppArmor, SELinux) forbids to look into ${them}, or it is in a user namespace where this one has no rights: ask there, or change the policy`,
  ]
}

/** ERR_FDB_TRACE with what is missing; `cause`: what the kernel refused with. */
export function traceRefused(pid: number, cause: unknown): FdbError {
  const { code = String(cause) } = cause as Partial<NodeJS.ErrnoException>
  const own = factsOf('self') ?? { uids: [], gids: [], permitted: 0n, effective: 0n, filtered: false }
  const [right, why] = missingRight({
    pid,
    own,
    target: factsOf(pid),
    keeper: keeperOf(pid),
    scope: yamaScope(),
    code,
  })
  return new FdbError('ERR_FDB_TRACE', `process ${pid} cannot be looked into (${code}): ${why}`, {
    cause,
    details: { pid, right },
  })
}

function factsOf(pid: number | 'self'): TraceFacts | null {
  try {
    const text = readFileSync(`/proc/${pid}/status`, 'latin1')
    const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)?.[1] ?? ''
    const ids = (name: string) => field(name).split(/\s+/).slice(0, 3).map(Number)
    const capabilities = (name: string) => BigInt(`0x${field(name) || '0'}`)
    return {
      uids: ids('Uid'),
      gids: ids('Gid'),
      permitted: capabilities('CapPrm'),
      effective: capabilities('CapEff'),
      filtered: Number(field('Seccomp')) > 0,
    }
  } catch {
    return null
  }
}

function keeperOf(pid: number): number | null {
  return statSync(`/proc/${pid}/fd`, { throwIfNoEntry: false })?.uid ?? null
}

function yamaScope(): number | null {
  try {
    return Number(readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'latin1'))
  } catch {
    return null
  }
}
