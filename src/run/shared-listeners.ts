import { closeAll, inspectOne, namesSocket, type OwnedFd, setBlocking } from '../kernel/index.js'
import {
  bindListener,
  formatAddress,
  formatListenerSpec,
  isOfKind,
  type ListenerSpec,
} from '../listeners/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import { startedAs } from '../os/command-line.js'
import type { NamedListener } from '../os/foreign-listeners.js'
import { type FdStore, passedSockets, takeStoredFor } from '../os/service-manager/passed-sockets.js'
import { NO_MANAGER_VARIABLES } from '../os/service-manager/service-manager.js'
import { type ChildStarter, childShell } from '../probing/shell.js'
import type { GivenListener } from '../versions/probe.js'
import type { Predecessor } from './predecessor.js'

export interface SharedListener {
  /** The specification as text. */
  readonly key: string
  /** The name that the first version gave it. */
  readonly name: string
  readonly fd: OwnedFd
  /** A service manager holds the socket too: the path belongs to the manager, and the socket could not be bound again. */
  readonly passed: boolean
  /** Bound by a process that still accepts on it. */
  readonly adopted: boolean
}

/** The listeners of all versions; each is bound once while a version uses it. Between two versions, clients wait in the kernel's queue. */
export class SharedListeners implements Disposable {
  readonly #held: Map<string, SharedListener>
  readonly #kept: StoredListeners
  readonly #predecessor: Pick<Predecessor, 'phase'> | null

  /** `held`: existing listeners, owned from now on. `predecessor`: owner of the adopted listeners until it has ended. */
  constructor(
    kept: StoredListeners,
    held: readonly SharedListener[] = [],
    predecessor: Pick<Predecessor, 'phase'> | null = null,
  ) {
    this.#kept = kept
    this.#held = new Map(held.map(each => [each.key, each]))
    this.#predecessor = predecessor
  }

  /** The listeners are borrowed by the caller. */
  get held(): SharedListener[] {
    return [...this.#held.values()].map(each => ({ ...each, passed: this.#isOthers(each) }))
  }

  /** The bound address of each specification; it differs for port 0. */
  get addresses(): ReadonlyMap<string, string> {
    return new Map([...this.#held].map(([key, { fd }]) => [key, formatAddress(inspectOne(fd))]))
  }

  /**
   * Returns the wanted listeners: held ones, ones that a service manager bound or kept, ones of a predecessor, else newly bound ones. If
   * one fails, newly bound ones are closed; passed ones remain open for the next attempt. `alone`: no version runs. Otherwise the flag
   * O_NONBLOCK is not changed: a running version that accepts until EAGAIN would hang without it.
   */
  provide(wanted: readonly NamedListener[], nonBlocking: boolean, alone: boolean): GivenListener[] {
    const bound: string[] = []
    try {
      return wanted.map(({ name, spec }) => {
        const key = formatListenerSpec(spec)
        let held = this.#held.get(key)
        let free = alone && held !== undefined && !held.passed && !held.adopted
        if (held === undefined) {
          const passed = passedSockets().claim(name, spec)
          const adopted = passed?.adopted ?? false
          const fd = passed?.fd ?? this.#kept.claim(key, spec) ?? bindListener(spec)
          held = { key, name, fd, passed: passed !== null && !adopted, adopted }
          this.#held.set(key, held)
          if (passed === null) bound.push(key)
          // The manager keeps its own listeners without this.
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

  /** Closes all other listeners. A version that was given one keeps its own copy. */
  keepOnly(listeners: readonly NamedListener[]): void {
    const wanted = new Set(listeners.map(({ spec }) => formatListenerSpec(spec)))
    for (const key of [...this.#held.keys()]) if (!wanted.has(key)) this.#drop(key)
    this.#kept.discard()
  }

  /** Whether the service manager keeps the listeners for the next process. */
  get areStored(): boolean {
    return this.#kept.isActive
  }

  /** Closes the listeners for good: connects are refused as soon as the versions stop accepting. */
  end(): void {
    for (const key of this.#held.keys()) this.#kept.drop(key)
    this.#kept.discard()
    this[Symbol.dispose]()
  }

  /** Closes this process's copies. The service manager keeps its own for the next process unless the unit is stopped. */
  [Symbol.dispose](): void {
    for (const held of this.#held.values()) this.#close(held)
    this.#held.clear()
  }

  #drop(key: string): void {
    const held = this.#held.get(key)!
    this.#held.delete(key)
    this.#kept.drop(key)
    const { name, fd } = held
    if (held.passed && !held.adopted) passedSockets().offer([{ name, fd, about: inspectOne(fd) }], false)
    else this.#close(held)
  }

  #close(held: SharedListener): void {
    if (!this.#isOthers(held)) removeUnixPath(held.fd, held.key)
    held.fd.close()
  }

  #isOthers({ passed, adopted }: SharedListener): boolean {
    return passed || (adopted && this.#predecessor !== null && this.#predecessor.phase !== 'ended')
  }
}

const PREFIX = 'listener-'

/** Stores listeners in the service manager, by specification, so that clients wait instead of being refused after a kill. */
export class StoredListeners {
  readonly #store: Pick<FdStore, 'keep' | 'drop'> | null
  /**
   * Unclaimed listeners of an earlier process, by specification. Two have the same one if the path of the first was removed, and the
   * process that bound it again was killed before it could drop the first.
   */
  readonly #left = new Map<string, OwnedFd[]>()

  /** `store` is null if the manager keeps nothing, or there is none. */
  constructor(store: Pick<FdStore, 'keep' | 'drop'> | null, service: string) {
    this.#store = store
    for (const { name, fd } of takeStoredFor(service)) {
      const key = Buffer.from(name.slice(PREFIX.length), 'base64url').toString()
      this.#left.set(key, [...(this.#left.get(key) ?? []), fd])
    }
  }

  /** Whether the manager passes kept listeners to the next process. */
  get isActive(): boolean {
    return this.#store !== null
  }

  /** Takes the stored listener of this specification if clients still reach it. The caller owns it, and calls {@link keep}. */
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

/** The variable that holds the child's own pid: children of that child must not use the descriptors. */
export const PID_VARIABLE = 'LISTEN_PID'

/** Marks all processes of a version, including those that leave its group; see `LeftoverProcesses.ofGroup()`. */
export const VERSION_VARIABLE = 'FD_BROKER_VERSION_OF'

/**
 * The variable that names the exec state for the supervisor's next image: `take:7` to continue from descriptor 7, `try:3` to only check it.
 * Removed for children.
 */
export const EXEC_STATE_VARIABLE = 'FD_BROKER_SUPERVISOR'

/** Removes variables that were meant for the supervisor itself. */
const NO_SUPERVISOR_VARIABLES: NodeJS.ProcessEnv = {
  ...NO_MANAGER_VARIABLES,
  SERVER_STARTER_PORT: undefined,
  SERVER_STARTER_GENERATION: undefined,
  [EXEC_STATE_VARIABLE]: undefined,
}

/** Announces listeners to a version in the conventions of systemd and Server::Starter. The first is descriptor 3. */
export function listenerVariables(listeners: readonly GivenListener[], version: number): NodeJS.ProcessEnv {
  if (listeners.length === 0) return { ...NO_SUPERVISOR_VARIABLES, SERVER_STARTER_GENERATION: `${version}` }
  return {
    ...NO_SUPERVISOR_VARIABLES,
    LISTEN_FDS: `${listeners.length}`,
    LISTEN_FDNAMES: listeners.map(({ name }) => name).join(':'),
    SERVER_STARTER_PORT: listeners
      .map(({ spec, address }, index) => {
        const bound = spec.kind === 'unix' ? `unix:${spec.abstract ? '@' : ''}${spec.path}` : address
        return `${portOf(bound)}=${3 + index}`
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

/** Limit for systemctl, which needs seconds on a busy machine. The listeners remain open until it has answered. */
const SYSTEMCTL_MS = 10_000
const MOST_TEXT = 1 << 20
/** The end of NOTIFY_SOCKET under systemd. The socket of a user manager is below {@link USER_MANAGER}. */
const NOTIFY_PATH = '/systemd/notify'
const USER_MANAGER = '/run/user/'
/** For a systemctl without `whoami`: finds the last service in the cgroup path. */
const FROM_CGROUP =
  "sed -n 's#.*/\\([^/]*\\.service\\)\\(/.*\\)\\{0,1\\}$#\\1#p' /proc/self/cgroup | head -n 1"

/**
 * Returns whether systemd is stopping this unit rather than restarting it: both send the same signal, but their jobs differ. Also false if
 * systemd cannot be asked, does not answer within 10 s, or `givenUp` aborts.
 */
export async function unitStops(children: ChildStarter, givenUp: AbortSignal): Promise<boolean> {
  const { NOTIFY_SOCKET: socket = '' } = startedAs.env
  if (!socket.endsWith(NOTIFY_PATH)) return false
  const systemctl = socket.startsWith(USER_MANAGER) ? 'systemctl --user' : 'systemctl'
  const text = await outputOf(
    children,
    // Without this systemctl would report its failure to the unit's socket, and systemd would log a warning.
    `exec 2>/dev/null; unset NOTIFY_SOCKET; { ${systemctl} whoami || ${FROM_CGROUP}; } && ${systemctl} list-jobs --no-legend --plain --full`,
    givenUp,
  )
  return isStopped(text)
}

/** `text` is the unit's name, then its jobs: number, unit, type and state. */
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
    const late = AbortSignal.any([givenUp, AbortSignal.timeout(SYSTEMCTL_MS)])
    try {
      const shell = childShell(children, '/', startedAs.env)
      const running = shell(command, {
        output: bytes => {
          if (text.length < MOST_TEXT) text += bytes
        },
        ended: code => resolve(code === 0 ? text : ''),
      })
      late.addEventListener('abort', () => {
        running.kill()
        resolve('')
      })
    } catch {
      resolve('')
    }
  })
}
