import type { OwnedFd } from '../../kernel/index.js'
import { startedAs } from '../command-line.js'
import { pidfdNumber } from '../liveness.js'
import { type NotifyFields, NotifySocket } from './notify-socket.js'
import { FdStore } from './passed-sockets.js'

/** The process that the manager watches as the unit's main process. */
export interface MainProcess {
  readonly pid: number
  /** Borrowed; null without pidfds. */
  readonly pidfd: OwnedFd | null
}

interface WarningLogger {
  warn(facts: object, message: string): void
}

/** Sends the state of this service to a service manager (systemd, or another program that sets `NOTIFY_SOCKET`); see sd_notify(3). */
export class ServiceManager {
  /** Time within which the manager expects a sign of life; null if it expects none. */
  readonly watchdogMs: number | null
  readonly #socket: NotifySocket
  readonly #hasStore: boolean

  /** Returns null if there is no service manager. */
  static find(logger: WarningLogger): ServiceManager | null {
    const { env } = startedAs
    let hasWarned = false
    const socket = NotifySocket.of(env, error => {
      if (!hasWarned)
        logger.warn(
          { err: error },
          'the service manager (NOTIFY_SOCKET) cannot be notified of the state of this service: messages to it are lost',
        )
      hasWarned = true
    })
    return socket === null ? null : new ServiceManager(socket, env)
  }

  private constructor(socket: NotifySocket, { FDSTORE, WATCHDOG_USEC }: Readonly<NodeJS.ProcessEnv>) {
    this.#hasStore = Number(FDSTORE) > 0
    const usec = Number(WATCHDOG_USEC)
    this.#socket = socket
    // WATCHDOG_PID is ignored: it is the pid of the unit's first process, but the successors must feed the watchdog too.
    this.watchdogMs = usec > 0 ? Math.max(1, Math.floor(usec / 1000)) : null
  }

  /** Returns the store for a service's descriptors; null if the manager has no store (`FDSTORE`). */
  storeFor(service: string): FdStore | null {
    return this.#hasStore ? new FdStore(this.#socket, service) : null
  }

  /** Reports that the service serves, or has finished the change that {@link changes} announced. `main`: the new main process. */
  serves(status: string, main?: MainProcess): void {
    this.#socket.send({ ...(main && mainPid(main)), READY: 1, STATUS: status })
  }

  /** Reports that another process of the service is its main process. */
  names(main: MainProcess): void {
    this.#socket.send(mainPid(main))
  }

  /** Reports that the service is being upgraded or reloaded, until {@link serves} is called. */
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

  /** Reports that a start, a change or the end takes longer than configured. The manager waits another `ms` for the next message. */
  extendTimeout(ms: number): void {
    this.#socket.send({ EXTEND_TIMEOUT_USEC: ms * 1000 })
  }
}

/** Whether there is a service manager, which can be told of a new main process. */
export function canNameMainProcess(): boolean {
  return NotifySocket.of(startedAs.env, () => {}) !== null
}

/** MAINPIDFDID is the number of the pidfd (since Linux 6.9): the manager then does not mistake a reused pid for the process. */
function mainPid({ pid, pidfd }: MainProcess): NotifyFields {
  if (pidfd === null) return { MAINPID: pid }
  const number = pidfdNumber(pidfd)
  return number === null ? { MAINPID: pid } : { MAINPID: pid, MAINPIDFDID: number }
}

/** Removes the variables that announce passed descriptors; see sd_listen_fds(3). */
export const NO_PASSED_SOCKETS: Readonly<NodeJS.ProcessEnv> = {
  LISTEN_FDS: undefined,
  LISTEN_FDNAMES: undefined,
  LISTEN_PID: undefined,
  LISTEN_PIDFDID: undefined,
}

/** Removes all variables that a service manager set: they are for this process, not for its children. */
export const NO_MANAGER_VARIABLES: Readonly<NodeJS.ProcessEnv> = {
  ...NO_PASSED_SOCKETS,
  NOTIFY_SOCKET: undefined,
  WATCHDOG_USEC: undefined,
  WATCHDOG_PID: undefined,
  FDSTORE: undefined,
}

/** Time that one EXTEND_TIMEOUT_USEC adds. */
const EXTENSION_MS = 30_000
const EXTEND_AGAIN_MS = 10_000

type WatchedManager = Pick<ServiceManager, 'extendTimeout' | 'lives' | 'watchdogMs'>

/** Sends the service manager, at intervals, WATCHDOG=1 while this process is healthy, and EXTEND_TIMEOUT_USEC during long operations. */
export class Watchdog {
  readonly #manager: WatchedManager | null
  readonly #healthy: () => boolean
  readonly #leftMs: () => number
  #timer: NodeJS.Timeout | undefined
  #extension: NodeJS.Timeout | undefined

  /** `leftMs`: the time in which this process was ordered to end; infinite without an order. */
  constructor(
    manager: WatchedManager | null,
    healthy: () => boolean,
    leftMs = () => Number.POSITIVE_INFINITY,
  ) {
    this.#manager = manager
    this.#healthy = healthy
    this.#leftMs = leftMs
  }

  /** Starts to send WATCHDOG=1: the manager now watches this process. Idempotent. */
  start(): void {
    const manager = this.#manager
    if (manager === null || manager.watchdogMs === null || this.#timer !== undefined) return
    const feed = () => {
      if (this.#healthy()) manager.lives()
    }
    this.#timer = setInterval(feed, Math.max(1, manager.watchdogMs / 2)).unref()
    feed()
  }

  /** Stops sending WATCHDOG=1: the manager now watches another process. */
  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Extends the manager's timeout for a start, a change or an end until {@link endExtension}. Idempotent. */
  extendTimeout(): void {
    const manager = this.#manager
    if (manager === null || this.#extension !== undefined) return
    // Never more than was ordered: the manager then ends a process that does not keep to its order.
    const extend = () => {
      const ms = Math.floor(Math.min(EXTENSION_MS, this.#leftMs()))
      if (ms > 0) manager.extendTimeout(ms)
    }
    extend()
    this.#extension = setInterval(extend, EXTEND_AGAIN_MS).unref()
  }

  endExtension(): void {
    clearInterval(this.#extension)
    this.#extension = undefined
  }

  close(): void {
    this.stop()
    this.endExtension()
  }
}
