import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { hasEnded, type NativeError, type OwnedFd, signalTo, takeFrom } from '../kernel/index.js'

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

  /** Where each descriptor leads, as /proc says: `socket:[123]`, `/memfd:name (deleted)`, a path. */
  descriptors(): Map<number, string> {
    const found = new Map<number, string>()
    for (const number of readdirSync(`/proc/${this.pid}/fd`)) {
      try {
        found.set(Number(number), readlinkSync(`/proc/${this.pid}/fd/${number}`))
      } catch {
        // Closed meanwhile.
      }
    }
    return found
  }

  /** A dup of one of its descriptors; the caller owns it. Throws ERR_FDB_DENIED where this user may not look into it. */
  take(number: number, label: string): OwnedFd {
    try {
      return takeFrom(this.#pidfd, number, label)
    } catch (cause) {
      throw new FdbError(
        'ERR_FDB_DENIED',
        `descriptor ${number} of process ${this.pid} cannot be taken (${(cause as NativeError).code}): run as its user, or as root with CAP_SYS_PTRACE`,
        { cause },
      )
    }
  }

  signal(signal: number): void {
    signalTo(this.#pidfd, signal)
  }

  [Symbol.dispose](): void {
    this.#pidfd.close()
  }
}
