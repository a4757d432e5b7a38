import { readdirSync, readFileSync } from 'node:fs'
import { hasEnded, type OwnedFd, pidfdOf, signalTo } from '../kernel/index.js'

/** Field 6 of /proc/PID/stat, the session's id, counted from behind the command, which may hold spaces and parentheses. */
const SESSION = 3

/**
 * What a process that led a session has left behind: those that it started and that did not leave its session. Held by their
 * pidfds, so that no signal meets another process. Where the kernel or its limits give none, nobody is held.
 */
export class SessionMembers implements Disposable {
  readonly #session: number
  readonly #members = new Map<number, OwnedFd>()

  /** Whoever reaps the leader makes this in the same turn: its number cannot be another's session yet. */
  constructor(leader: number) {
    this.#session = leader
    this.#look()
  }

  /** The members that live. */
  get pids(): number[] {
    this.#look()
    return [...this.#members].filter(([, pidfd]) => !hasEnded(pidfd)).map(([pid]) => pid)
  }

  signal(signal: number): void {
    for (const pid of this.pids) {
      try {
        signalTo(this.#members.get(pid)!, signal)
      } catch {
        // The process has ended meanwhile, or has become another user's.
      }
    }
  }

  /** Idempotent. */
  [Symbol.dispose](): void {
    for (const pidfd of this.#members.values()) pidfd.close()
    this.#members.clear()
  }

  /** As long as one of them lives the session's number is theirs: what has it is one of them too. */
  #look(): void {
    const first = this.#members.size === 0
    if (!first && [...this.#members.values()].every(pidfd => hasEnded(pidfd))) return
    for (const entry of processes()) {
      const pid = Number(entry)
      if (Number.isInteger(pid) && !this.#members.has(pid) && sessionOf(pid) === this.#session) this.#add(pid)
    }
  }

  #add(pid: number): void {
    try {
      const pidfd = pidfdOf(pid)
      if (pidfd === null) return
      // The process is looked at again: the number may have become another's before the descriptor was its.
      if (sessionOf(pid) === this.#session) this.#members.set(pid, pidfd)
      else pidfd.close()
    } catch {
      // The process has ended, or there is no descriptor left.
    }
  }
}

/** None where they cannot be told: no descriptor is free, or there is no /proc. Who asks looks again. */
function processes(): string[] {
  try {
    return readdirSync('/proc')
  } catch {
    return []
  }
}

function sessionOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[SESSION])
  } catch {
    return undefined
  }
}
