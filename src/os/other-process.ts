import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { hasEnded, type NativeError, OwnedFd, signalTo, takeFrom } from '../kernel/index.js'
import { noDescriptors } from './limits.js'
import { openPidfd } from './liveness.js'
import { traceRefused } from './trace-right.js'

/** How a process was started, as the kernel knows it. */
export interface StartedAs {
  readonly argv: readonly string[]
  readonly cwd: string
  readonly env: Readonly<NodeJS.ProcessEnv>
}

/** A process of the same user, looked into from outside. Owns a pidfd: what it answers is of that process, never of a later one. */
export class OtherProcess implements Disposable {
  readonly pid: number
  readonly #pidfd: OwnedFd

  /** The process that has this number now. Throws ERR_FDB_ADOPT: there is none; ERR_FDB_TRACE: there are no pidfds. */
  static of(pid: number): OtherProcess {
    const pidfd = openPidfd(pid)
    if (pidfd instanceof OwnedFd) return new OtherProcess(pid, pidfd)
    if (pidfd === null) throw traceRefused(pid, Object.assign(new Error('no pidfd'), { code: 'ENOSYS' }))
    throw new FdbError(
      'ERR_FDB_ADOPT',
      `there is no process ${pid}: it has ended, or is in another PID namespace`,
    )
  }

  /** Takes the pidfd. */
  constructor(pid: number, pidfd: OwnedFd) {
    this.pid = pid
    this.#pidfd = pidfd
  }

  get uid(): number {
    return statSync(`/proc/${this.pid}`).uid
  }

  get ended(): boolean {
    return hasEnded(this.#pidfd)
  }

  get startedAs(): StartedAs {
    const list = (name: string) => readFileSync(`/proc/${this.pid}/${name}`, 'utf8').split('\0').slice(0, -1)
    const env = Object.fromEntries(
      list('environ').map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    )
    return { argv: list('cmdline'), cwd: readlinkSync(`/proc/${this.pid}/cwd`), env }
  }

  /** Where each descriptor leads, as /proc says: `socket:[123]`, `/memfd:name (deleted)`, a path. Throws ERR_FDB_TRACE. */
  descriptors(): Map<number, string> {
    const found = new Map<number, string>()
    for (const number of this.#numbers()) {
      try {
        found.set(Number(number), readlinkSync(`/proc/${this.pid}/fd/${number}`))
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException
        if (code === 'EACCES' || code === 'EPERM') throw traceRefused(this.pid, cause)
        // Closed meanwhile.
      }
    }
    return found
  }

  /** A dup of one of its descriptors; the caller owns it. Throws ERR_FDB_TRACE where this user may not look into it. */
  take(number: number, label: string): OwnedFd {
    const taken = this.takeIfThere(number, label)
    if (taken !== null) return taken
    throw new FdbError(
      'ERR_FDB_ADOPT',
      `process ${this.pid} has closed its descriptor ${number}, or has ended`,
    )
  }

  /** The same; null: it has closed it meanwhile, or ended. */
  takeIfThere(number: number, label: string): OwnedFd | null {
    try {
      return takeFrom(this.#pidfd, number, label)
    } catch (cause) {
      const { code } = cause as NativeError
      if (code === 'EBADF' || code === 'ESRCH') return null
      if (code === 'EMFILE' || code === 'ENFILE')
        throw noDescriptors(`descriptor ${number} of process ${this.pid} cannot be taken`, cause)
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
