import { afterReading } from '../base/after-reading.js'
import { closeAll, inspectOne, namesSocket, type OwnedFd, setBlocking } from '../kernel/index.js'
import {
  bindListener,
  formatAddress,
  formatListenerSpec,
  isOfKind,
  type ListenerGuard,
  type ListenerSpec,
  parseSentSpec,
} from '../listeners/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import { startedAs } from '../os/command-line.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import { type FdStore, FIRST_FD, passedSockets, takeStoredFor } from '../os/service-manager/passed-sockets.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { type ChildStarter, childShell } from '../probing/shell.js'
import type { GivenListener } from '../versions/version-probe.js'
import type { Predecessor } from './predecessor.js'

export interface SharedListener {
  /** The listener's specification as text. */
  readonly key: string
  /** The name by which the first version that used the listener called it. */
  readonly name: string
  readonly fd: OwnedFd
  /** Whether a service manager bound the socket and holds it too. The path belongs to the manager; this process cannot bind it again. */
  readonly passed: boolean
  /** Whether the socket was taken over from a running process that may still accept on it. */
  readonly adopted: boolean
}

/** The listeners of all versions, which stay open from one version to the next: clients wait in the kernel's queue meanwhile. */
export class SharedListeners implements Disposable {
  readonly #held: Map<string, SharedListener>
  readonly #kept: StoredListeners
  readonly #predecessor: Pick<Predecessor, 'phase'> | null
  readonly #guard: ListenerGuard | null

  /** Owns the existing listeners `held`. `predecessor` owns the Unix paths of adopted listeners until it has ended. */
  constructor(
    kept: StoredListeners,
    held: readonly SharedListener[] = [],
    predecessor: Pick<Predecessor, 'phase'> | null = null,
    guard: ListenerGuard | null = null,
  ) {
    this.#kept = kept
    this.#predecessor = predecessor
    this.#guard = guard
    this.#held = new Map()
    for (const each of held) this.#hold(each)
  }

  /** The listeners are borrowed by the caller. */
  get held(): SharedListener[] {
    return [...this.#held.values()].map(each => ({ ...each, passed: this.#isOthers(each) }))
  }

  /** The bound address by specification; they differ for port 0. */
  get addresses(): ReadonlyMap<string, string> {
    return new Map([...this.#held].map(([key, { fd }]) => [key, formatAddress(inspectOne(fd))]))
  }

  /** Returns why clients cannot reach the listener of this specification; null if they can. */
  faultOf(key: string): string | null {
    const fd = this.#held.get(key)?.fd
    return fd === undefined ? null : (this.#guard?.faultOf(fd) ?? null)
  }

  #hold(listener: SharedListener): void {
    const { fd, key, name } = listener
    this.#held.set(key, listener)
    // The path of another process's socket is its own.
    this.#guard?.add({ fd, name, spec: this.#isOthers(listener) ? null : parseSentSpec(key) })
  }

  /**
   * Returns the wanted listeners, borrowed. Binds those that neither this object holds, nor a service manager or the predecessor has
   * passed, and those that clients cannot reach any more. If one fails, closes the newly bound ones; passed and stored ones stay open for the next attempt. Changes O_NONBLOCK only if no version
   * runs (`alone`): a running version that accepts until EAGAIN would block without it.
   */
  provide(wanted: readonly NamedListener[], nonBlocking: boolean, alone: boolean): GivenListener[] {
    const bound: string[] = []
    try {
      return wanted.map(({ name, spec }) => {
        const key = formatListenerSpec(spec)
        if (this.faultOf(key) !== null) this.#drop(key)
        let held = this.#held.get(key)
        let free = alone && held !== undefined && !held.passed && !held.adopted
        if (held === undefined) {
          const passed = passedSockets().claim(name, spec)
          const adopted = passed?.adopted ?? false
          const given = passed?.fd ?? this.#kept.claim(key, spec)
          const fd = given ?? bindListener(spec)
          held = { key, name, fd, passed: passed !== null && !adopted, adopted }
          this.#hold(held)
          if (given === null) bound.push(key)
          // The manager keeps the listeners that it bound itself anyway.
          if (!held.passed) this.#kept.keep(key, fd)
          free = !passed?.inUse
        }
        if (free) setBlocking(held.fd, !nonBlocking)
        return { name, fd: held.fd, spec, address: formatAddress(inspectOne(held.fd)) }
      })
    } catch (error) {
      for (const key of bound) this.#drop(key)
      throw error
    }
  }

  /** Closes all listeners except these. Versions keep their own descriptors. */
  keepOnly(listeners: readonly NamedListener[]): void {
    const wanted = new Set(listeners.map(({ spec }) => formatListenerSpec(spec)))
    for (const key of [...this.#held.keys()]) if (!wanted.has(key)) this.#drop(key)
    this.#kept.discard()
  }

  /** Whether a service manager keeps the listeners for the next supervisor. */
  get areStored(): boolean {
    return this.#kept.isActive
  }

  /** Closes the listeners, also in the service manager: the kernel refuses clients as soon as the versions have closed theirs. */
  end(): void {
    for (const key of this.#held.keys()) this.#kept.drop(key)
    this.#kept.discard()
    this[Symbol.dispose]()
  }

  /** Closes this process's descriptors. The service manager keeps its own for the next supervisor, unless the unit is stopped. */
  [Symbol.dispose](): void {
    for (const held of this.#held.values()) this.#close(held)
    this.#held.clear()
    this.#guard?.[Symbol.dispose]()
  }

  #drop(key: string): void {
    const held = this.#held.get(key)!
    this.#held.delete(key)
    this.#kept.drop(key)
    const { name, fd } = held
    this.#guard?.remove(fd)
    if (held.passed && !held.adopted) passedSockets().offer([{ name, fd, about: inspectOne(fd) }], false)
    else this.#close(held)
  }

  #close(held: SharedListener): void {
    this.#guard?.remove(held.fd)
    if (!this.#isOthers(held)) removeUnixPath(held.fd, parseSentSpec(held.key))
    held.fd.close()
  }

  #isOthers({ passed, adopted }: SharedListener): boolean {
    return passed || (adopted && this.#predecessor !== null && this.#predecessor.phase !== 'ended')
  }
}

const PREFIX = 'listener-'

/** Stores listeners in the service manager, by specification: if this process is killed, clients wait instead of being refused. */
export class StoredListeners {
  readonly #store: Pick<FdStore, 'keep' | 'drop'> | null
  /**
   * Unclaimed listeners of an earlier supervisor, by specification. There are two for one Unix path if the path of the first was removed,
   * and the supervisor that bound it again was killed before it could drop the first.
   */
  readonly #left = new Map<string, OwnedFd[]>()

  /** `store` is null if there is no manager, or if it keeps no descriptors. */
  constructor(store: Pick<FdStore, 'keep' | 'drop'> | null, service: string) {
    this.#store = store
    for (const { name, fd } of takeStoredFor(service)) {
      const key = Buffer.from(name.slice(PREFIX.length), 'base64url').toString()
      this.#left.set(key, [...(this.#left.get(key) ?? []), fd])
    }
  }

  get isActive(): boolean {
    return this.#store !== null
  }

  /** Takes the stored listener of this specification if clients still reach it. The caller owns it, and must {@link keep} it. */
  claim(key: string, spec: ListenerSpec): OwnedFd | null {
    const there = this.#left.get(key)?.filter(fd => isOfKind(inspectOne(fd), spec)) ?? []
    const reached = there.map(fd => isReached(fd, spec))
    const found = there[reached.indexOf(true)] ?? there[reached.indexOf(null)] ?? null
    this.#forget(key, found)
    return found
  }

  /** Stores a listener in the manager. Borrows the descriptor. */
  keep(key: string, fd: OwnedFd): void {
    this.#forget(key)
    this.#store?.keep(storeName(key), fd)
  }

  drop(key: string): void {
    this.#store?.drop(storeName(key))
  }

  /** Closes all unclaimed stored listeners: clients that connect to them would never be served. */
  discard(): void {
    for (const key of [...this.#left.keys()]) this.#forget(key)
  }

  /** Closes the stored listeners of this specification except `but`, and drops them from the manager. */
  #forget(key: string, but: OwnedFd | null = null): void {
    const left = this.#left.get(key)
    this.#left.delete(key)
    const others = left?.filter(fd => fd !== but) ?? []
    if (others.length === 0) return
    this.drop(key)
    closeAll(others)
  }
}

/** Whether clients reach the listener by its path; null if the kernel does not report it. */
function isReached(fd: OwnedFd, { kind, abstract, path }: ListenerSpec): boolean | null {
  return kind !== 'unix' || abstract || namesSocket(fd, path)
}

function storeName(key: string): string {
  return PREFIX + Buffer.from(key).toString('base64url')
}

/** The variable for the pid of a version: a process of another pid that inherits LISTEN_FDS must not use the descriptors. */
export const PID_VARIABLE = 'LISTEN_PID'

/** The variable by which `LeftoverProcesses.ofGroup()` finds all processes of a version, also those that left its process group. */
export const VERSION_VARIABLE = 'FD_BROKER_VERSION_OF'

/**
 * The variable that tells the supervisor's next image which descriptor has the exec state: `take:7` to continue from the state, `try:3` to
 * check it only. Removed for children.
 */
export const EXEC_STATE_VARIABLE = 'FD_BROKER_SUPERVISOR'

/** Removes variables that were meant for the supervisor itself. */
const NO_SUPERVISOR_VARIABLES: NodeJS.ProcessEnv = {
  ...NO_MANAGER_VARIABLES,
  SERVER_STARTER_PORT: undefined,
  SERVER_STARTER_GENERATION: undefined,
  [EXEC_STATE_VARIABLE]: undefined,
}

/** Returns variables that announce listeners to a version as systemd and Server::Starter do. The first listener is descriptor 3. */
export function listenerVariables(listeners: readonly GivenListener[], version: number): NodeJS.ProcessEnv {
  if (listeners.length === 0) return { ...NO_SUPERVISOR_VARIABLES, SERVER_STARTER_GENERATION: `${version}` }
  return {
    ...NO_SUPERVISOR_VARIABLES,
    LISTEN_FDS: `${listeners.length}`,
    LISTEN_FDNAMES: listeners.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: listeners
      .map(({ spec, address }, index) => {
        const bound = spec.kind === 'unix' ? `unix:${spec.abstract ? '@' : ''}${spec.path}` : address
        return `${portOf(bound)}=${FIRST_FD + index}`
      })
      .join(';'),
    SERVER_STARTER_GENERATION: `${version}`,
  }
}

/** Returns the address as SERVER_STARTER_PORT writes it: `127.0.0.1:80`, `[::1]:80`, `u127.0.0.1:53`, `/run/a.sock`, `@name`. */
export function portOf(address: string): string {
  const at = address.indexOf(':')
  const where = address.slice(at + 1).replace(/^\/\/(?!\/)/, '')
  return address.startsWith('udp:') ? `u${where}` : where
}

/** Time limit for systemctl, which needs seconds on a busy machine. The listeners stay open until systemctl has answered. */
const SYSTEMCTL_MS = 10_000
const MOST_TEXT = 1 << 20
/** How NOTIFY_SOCKET ends under systemd, and how it begins under a user manager. */
const NOTIFY_PATH = '/systemd/notify'
const USER_MANAGER = '/run/user/'
/** Prints this process's unit, the last service in its cgroup path, because an old systemctl lacks `whoami`. */
const FROM_CGROUP =
  "sed -n 's#.*/\\([^/]*\\.service\\)\\(/.*\\)\\{0,1\\}$#\\1#p' /proc/self/cgroup | head -n 1"

/**
 * Resolves with whether systemd stops this unit and does not restart it: the signal is the same, but the job of the unit differs. Resolves
 * with false if systemd cannot be asked or does not answer within 10 s, or if `givenUp` aborts.
 */
export async function unitStops(children: ChildStarter, givenUp: AbortSignal): Promise<boolean> {
  const { NOTIFY_SOCKET: socket = '' } = startedAs.env
  if (!socket.endsWith(NOTIFY_PATH)) return false
  const systemctl = socket.startsWith(USER_MANAGER) ? 'systemctl --user' : 'systemctl'
  const text = await outputOf(
    children,
    // A systemctl that has NOTIFY_SOCKET reports its failures there, and systemd logs a warning.
    `exec 2>/dev/null; unset NOTIFY_SOCKET; { ${systemctl} whoami || ${FROM_CGROUP}; } && ${systemctl} list-jobs --no-legend --plain --full`,
    givenUp,
  )
  return isStopped(text)
}

/** `text`: the name of this unit, then a line for each job with number, unit, type and state. */
export function isStopped(text: string): boolean {
  const [unit, ...jobs] = text.split('\n').map(line => line.trim())
  return jobs.some(line => {
    const [, name, type] = line.split(/\s+/)
    return name === unit && type === 'stop'
  })
}

/** Resolves with the output, or with '' if the command fails or `givenUp` aborts. */
function outputOf(children: ChildStarter, command: string, givenUp: AbortSignal): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    try {
      const shell = childShell(children, '/', startedAs.env)
      const running = shell(command, {
        output: bytes => {
          if (text.length < MOST_TEXT) text += bytes
        },
        ended: code => {
          limit.clear()
          givenUp.removeEventListener('abort', giveUp)
          resolve(code === 0 ? text : '')
        },
      })
      const giveUp = () => {
        running.kill()
        resolve('')
      }
      const limit = afterReading(SYSTEMCTL_MS, giveUp, { unref: true })
      givenUp.addEventListener('abort', giveUp)
    } catch {
      resolve('')
    }
  })
}
