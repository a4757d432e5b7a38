import type { OwnedFd } from '../../kernel/index.js'
import { startedAs } from '../command-line.js'
import { pidfdNumber } from '../liveness.js'
import { NotifySocket, type Words } from './notify-socket.js'
import { FdStore } from './passed-sockets.js'

/** The process that the manager must watch from now on. */
export interface MainProcess {
  readonly pid: number
  /** Borrowed. */
  readonly pidfd: OwnedFd | null
}

/** The part of a logger that is needed here. */
interface Warnings {
  warn(facts: object, message: string): void
}

/** Tells a service manager (systemd, or another program that sets `NOTIFY_SOCKET`) about a service: see sd_notify(3). */
export class ServiceManager {
  /** How often it wants to hear that the service lives, milliseconds; null: it does not. */
  readonly watchdogMs: number | null
  readonly #socket: NotifySocket
  readonly #keeps: boolean

  /** Null: there is no service manager. */
  static find(logger: Warnings): ServiceManager | null {
    const { env } = startedAs
    let told = false
    const socket = NotifySocket.of(env, error => {
      if (!told)
        logger.warn(
          { err: error },
          'the service manager (NOTIFY_SOCKET) cannot be told what becomes of this service',
        )
      told = true
    })
    return socket === null ? null : new ServiceManager(socket, env)
  }

  private constructor(socket: NotifySocket, { FDSTORE, WATCHDOG_USEC }: Readonly<NodeJS.ProcessEnv>) {
    this.#keeps = Number(FDSTORE) > 0
    const usec = Number(WATCHDOG_USEC)
    this.#socket = socket
    // WATCHDOG_PID names the first process: those that serve after it have its variables, and its duty.
    this.watchdogMs = usec > 0 ? Math.max(1, Math.floor(usec / 1000)) : null
  }

  /** Where descriptors of a service are kept; null: nowhere, or it is not said (`FDSTORE`). */
  storeFor(service: string): FdStore | null {
    return this.#keeps ? new FdStore(this.#socket, service) : null
  }

  /** The service is up, or has come to the end of what {@link changes} told of. */
  serves(status: string): void {
    this.#socket.say({ READY: 1, STATUS: status })
  }

  /** {@link serves}, and another process than before is its main process. */
  servesBy(main: MainProcess, status: string): void {
    this.#socket.say({ ...mainPid(main), READY: 1, STATUS: status })
  }

  /** It is up, and changes: is upgraded, or reads its configuration. {@link serves} ends it. */
  changes(status: string): void {
    const usec = process.hrtime.bigint() / 1000n
    this.#socket.say({ RELOADING: 1, MONOTONIC_USEC: usec, STATUS: status })
  }

  ends(status: string): void {
    this.#socket.say({ STOPPING: 1, STATUS: status })
  }

  says(status: string): void {
    this.#socket.say({ STATUS: status })
  }

  lives(): void {
    this.#socket.say({ WATCHDOG: 1 })
  }

  /** EXTEND_TIMEOUT_USEC: the current operation may take longer than configured; the next message comes within this time. */
  takesTime(ms: number): void {
    this.#socket.say({ EXTEND_TIMEOUT_USEC: ms * 1000 })
  }
}

/** Whether a service manager can be told who the main process is. */
export function namesMain(): boolean {
  return NotifySocket.of(startedAs.env, () => {}) !== null
}

/** With what tells it from a later process of its number, where the kernel numbers pidfds (Linux 6.9): not one of another as this one's. */
function mainPid({ pid, pidfd }: MainProcess): Words {
  if (pidfd === null) return { MAINPID: pid }
  const number = pidfdNumber(pidfd)
  return number === null ? { MAINPID: pid } : { MAINPID: pid, MAINPIDFDID: number }
}

/** An environment in which no descriptors are passed, see sd_listen_fds(3). */
export const NONE_PASSED: Readonly<NodeJS.ProcessEnv> = {
  LISTEN_FDS: undefined,
  LISTEN_FDNAMES: undefined,
  LISTEN_PID: undefined,
  LISTEN_PIDFDID: undefined,
}

/** Without what a service manager has told a process: it is meant for that one, not for those that it starts. */
export const NOTHING_TOLD: Readonly<NodeJS.ProcessEnv> = {
  ...NONE_PASSED,
  NOTIFY_SOCKET: undefined,
  WATCHDOG_USEC: undefined,
  WATCHDOG_PID: undefined,
  FDSTORE: undefined,
}

/** EXTEND_TIMEOUT_USEC: the extension, milliseconds. */
const TAKES_MS = 30_000
const SAY_AGAIN_MS = 10_000

/** Repeats messages to the service manager: WATCHDOG=1 and EXTEND_TIMEOUT_USEC. */
export class Reminders {
  readonly #manager: ServiceManager | null
  readonly #healthy: () => boolean
  #watchdog: NodeJS.Timeout | undefined
  #patience: NodeJS.Timeout | undefined

  /** `manager` null: there is no service manager. */
  constructor(manager: ServiceManager | null, healthy: () => boolean) {
    this.#manager = manager
    this.#healthy = healthy
  }

  /** This process is the one to be watched. Idempotent. */
  live(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#watchdog !== undefined) return
    const lives = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#watchdog = setInterval(lives, Math.max(1, manager.watchdogMs / 2)).unref()
    lives()
  }

  /** Another is. */
  rest(): void {
    clearInterval(this.#watchdog)
    this.#watchdog = undefined
  }

  /** Extends the manager's timeout: the operation has limits of its own, which may be longer. Idempotent. */
  takeTime(): void {
    const manager = this.#manager
    if (manager === null || this.#patience !== undefined) return
    const say = () => manager.takesTime(TAKES_MS)
    say()
    this.#patience = setInterval(say, SAY_AGAIN_MS).unref()
  }

  /** It is over. */
  takeNoTime(): void {
    clearInterval(this.#patience)
    this.#patience = undefined
  }

  close(): void {
    this.rest()
    this.takeNoTime()
  }
}
