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
    this.#socket.send({ READY: 1, STATUS: status })
  }

  /** {@link serves}, and another process than before is its main process. */
  servesBy(main: MainProcess, status: string): void {
    this.#socket.send({ ...mainPid(main), READY: 1, STATUS: status })
  }

  /** It is up, and changes: is upgraded, or reads its configuration. {@link serves} ends it. */
  changes(status: string): void {
    const usec = process.hrtime.bigint() / 1000n
    this.#socket.send({ RELOADING: 1, MONOTONIC_USEC: usec, STATUS: status })
  }

  ends(status: string): void {
    this.#socket.send({ STOPPING: 1, STATUS: status })
  }

  says(status: string): void {
    this.#socket.send({ STATUS: status })
  }

  lives(): void {
    this.#socket.send({ WATCHDOG: 1 })
  }

  /** EXTEND_TIMEOUT_USEC: the current operation may take longer than configured; the next message comes within this time. */
  extendTimeout(ms: number): void {
    this.#socket.send({ EXTEND_TIMEOUT_USEC: ms * 1000 })
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
