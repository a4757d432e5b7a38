import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { duplicateFrom, hasEnded, type NativeError, OwnedFd, procText, signalTo } from '../kernel/index.js'
import { outOfDescriptors } from './limits.js'
import { openPidfd } from './liveness.js'

/** How a process was started, according to /proc, which shows its present folder, and the title instead of the command line if it has set one. */
export interface ProcessStart {
  readonly argv: readonly string[]
  readonly cwd: string
  readonly env: Readonly<NodeJS.ProcessEnv>
}

/** Inspects another process of the same user. A pidfd ensures that descriptors never come from a later process with the same pid. */
export class OtherProcess implements Disposable {
  readonly pid: number
  readonly #pidfd: OwnedFd

  /** Opens the process with this pid. Throws ERR_FDB_ADOPT if it does not exist, ERR_FDB_TRACE without pidfds. */
  static of(pid: number): OtherProcess {
    const pidfd = openPidfd(pid)
    if (pidfd instanceof OwnedFd) return new OtherProcess(pid, pidfd)
    if (pidfd === null) throw traceRefused(pid, Object.assign(new Error('no pidfd'), { code: 'ENOSYS' }))
    throw new FdbError(
      'ERR_FDB_ADOPT',
      `there is no process ${pid}: it has ended, or is in another PID namespace`,
    )
  }

  /** Owns the pidfd. */
  constructor(pid: number, pidfd: OwnedFd) {
    this.pid = pid
    this.#pidfd = pidfd
  }

  get uid(): number {
    return statSync(`/proc/${this.pid}`).uid
  }

  get hasEnded(): boolean {
    return hasEnded(this.#pidfd)
  }

  get startedAs(): ProcessStart {
    const list = (name: string) => readFileSync(`/proc/${this.pid}/${name}`, 'utf8').split('\0').slice(0, -1)
    const env = Object.fromEntries(
      list('environ').map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    )
    return { argv: list('cmdline'), cwd: readlinkSync(`/proc/${this.pid}/cwd`), env }
  }

  /** Returns what each open descriptor refers to, such as `socket:[123]`, `/memfd:name (deleted)` or a path. Throws ERR_FDB_TRACE. */
  descriptors(): Map<number, string> {
    const found = new Map<number, string>()
    for (const number of this.#numbers()) {
      try {
        found.set(Number(number), readlinkSync(`/proc/${this.pid}/fd/${number}`))
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException
        if (code === 'EACCES' || code === 'EPERM') throw traceRefused(this.pid, cause)
        // The process has just closed the descriptor.
      }
    }
    return found
  }

  /** Duplicates a descriptor of the process; the caller owns the duplicate. Throws ERR_FDB_ADOPT if it is not open, ERR_FDB_TRACE. */
  duplicate(number: number, label: string): OwnedFd {
    const taken = this.takeIfThere(number, label)
    if (taken !== null) return taken
    throw new FdbError(
      'ERR_FDB_ADOPT',
      `process ${this.pid} has closed its descriptor ${number}, or has ended`,
    )
  }

  /** As {@link duplicate}, but returns null if the process has closed the descriptor, or has ended. */
  takeIfThere(number: number, label: string): OwnedFd | null {
    try {
      return duplicateFrom(this.#pidfd, number, label)
    } catch (cause) {
      const { code } = cause as NativeError
      if (code === 'EBADF' || code === 'ESRCH') return null
      if (code === 'EMFILE' || code === 'ENFILE')
        throw outOfDescriptors(`descriptor ${number} of process ${this.pid} cannot be taken`, cause)
      throw traceRefused(this.pid, cause)
    }
  }

  signal(signal: number): void {
    signalTo(this.#pidfd, signal)
  }

  [Symbol.dispose](): void {
    this.#pidfd.close()
  }

  #numbers(): string[] {
    try {
      return readdirSync(`/proc/${this.pid}/fd`)
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw traceRefused(this.pid, cause)
    }
  }
}

/** Bit of CAP_SYS_PTRACE, the right to inspect any process. */
const SYS_PTRACE = 1n << 19n
const REMEDY = 'or as root with CAP_SYS_PTRACE'

/** Facts about a process from /proc, on which it depends whether one process may inspect another. */
export interface TraceFacts {
  /** Real, effective and saved ids. */
  readonly uids: readonly number[]
  readonly gids: readonly number[]
  readonly permitted: bigint
  readonly effective: bigint
  /** Whether a seccomp filter is active. */
  readonly filtered: boolean
}

export interface TraceAttempt {
  readonly pid: number
  readonly own: TraceFacts
  readonly target: TraceFacts | null
  /** Owner of the target's /proc/PID/fd: root if the target is not dumpable. */
  readonly fdOwner: number | null
  /** kernel.yama.ptrace_scope; null if the kernel has no Yama. */
  readonly scope: number | null
  /** The errno of the refused call. */
  readonly code: string
}

/** Which right is missing, in `details.right` of ERR_FDB_TRACE. */
type MissingRight = 'call' | 'user' | 'capability' | 'dumpable' | 'yama' | 'filter' | 'policy'

/** Explains why this process may not inspect another. Repeats the kernel's checks, see ptrace(2), and reports the first that fails. */
export function missingRight({
  pid,
  own,
  target,
  fdOwner,
  scope,
  code,
}: TraceAttempt): [MissingRight, string] {
  const them = `process ${pid}`
  if (code === 'ENOSYS')
    return [
      'call',
      'the system call pidfd_getfd is missing: it needs Linux 5.6 or newer, or a filter (seccomp) hides it',
    ]
  if (scope !== null && scope >= 3)
    return [
      'yama',
      `kernel.yama.ptrace_scope=${scope} lets no process inspect another until the machine is rebooted`,
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
        `${them} has capabilities that this one lacks: run with CAP_SYS_PTRACE, or with the same capabilities`,
      ]
    if (fdOwner === 0 && uid !== 0)
      return [
        'dumpable',
        `${them} is not dumpable (it has changed its user, or its program file has capabilities or is unreadable): run as root with CAP_SYS_PTRACE`,
      ]
    if (scope !== null && scope > 0)
      return [
        'yama',
        `kernel.yama.ptrace_scope=${scope} lets only ${scope === 1 ? 'its ancestors' : 'root'} inspect ${them}: run as root with CAP_SYS_PTRACE, or set it to 0 for this command`,
      ]
  }
  if (own.filtered)
    return [
      'filter',
      'a filter of system calls (seccomp) forbids pidfd_getfd, as those of container engines do: allow it, or run outside the container',
    ]
  return [
    'policy',
    `a security module (AppArmor, SELinux) forbids inspecting ${them}, or it is in a user namespace where this process has no rights: run the command there, or change the policy`,
  ]
}

/** Returns ERR_FDB_TRACE, which names the missing right. `cause` is the error of the system call. */
function traceRefused(pid: number, cause: unknown): FdbError {
  const { code = String(cause) } = cause as Partial<NodeJS.ErrnoException>
  const own = factsOf('self') ?? { uids: [], gids: [], permitted: 0n, effective: 0n, filtered: false }
  const [right, why] = missingRight({
    pid,
    own,
    target: factsOf(pid),
    fdOwner: fdOwnerOf(pid),
    scope: yamaScope(),
    code,
  })
  return new FdbError('ERR_FDB_TRACE', `process ${pid} cannot be inspected (${code}): ${why}`, {
    cause,
    details: { pid, right },
  })
}

function factsOf(pid: number | 'self'): TraceFacts | null {
  const text = procText(`${pid}/status`)
  if (text === '') return null
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
}

function fdOwnerOf(pid: number): number | null {
  return statSync(`/proc/${pid}/fd`, { throwIfNoEntry: false })?.uid ?? null
}

function yamaScope(): number | null {
  const text = procText('sys/kernel/yama/ptrace_scope')
  return text === '' ? null : Number(text)
}
