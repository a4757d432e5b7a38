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
import { type FdStore, keptFor, passedSockets } from '../os/service-manager/passed-sockets.js'
import { NOTHING_TOLD } from '../os/service-manager/service-manager.js'
import { childShell, type Starts } from '../probing/shell.js'
import type { GivenListener } from '../versions/probe.js'
import type { Predecessor } from './predecessor.js'
import type { NamedListener } from './settings.js'

export interface SharedListener {
  /** Its specification. */
  readonly key: string
  /** By which the first version that wanted it has called it. */
  readonly name: string
  readonly fd: OwnedFd
  /** Another process has it too and keeps it, as a service manager does: its path stays theirs, and could not be bound again. */
  readonly passed: boolean
  /** Bound by a process that accepts on it still. */
  readonly adopted: boolean
}

/** The listeners of all versions, bound once while one version wants them. Clients between two versions wait in the kernel's queue. */
export class SharedListeners implements Disposable {
  readonly #held: Map<string, SharedListener>
  readonly #kept: KeptListeners
  readonly #predecessor: Pick<Predecessor, 'phase'> | null

  /** `held`: what is there already; owned from now on. `predecessor`: whose the adopted ones are until it has ended. */
  constructor(
    kept: KeptListeners,
    held: readonly SharedListener[] = [],
    predecessor: Pick<Predecessor, 'phase'> | null = null,
  ) {
    this.#kept = kept
    this.#held = new Map(held.map(each => [each.key, each]))
    this.#predecessor = predecessor
  }

  /** Lent. */
  get held(): SharedListener[] {
    return [...this.#held.values()].map(each => ({ ...each, passed: this.#isOthers(each) }))
  }

  /** Where each specification really is bound. */
  get addresses(): ReadonlyMap<string, string> {
    return new Map([...this.#held].map(([key, { fd }]) => [key, formatAddress(inspectOne(fd))]))
  }

  /**
   * Binds missing listeners, or takes those that a service manager has bound or kept for them, or that the process before has left. All or
   * none: if one is impossible, the newly bound ones are closed again, and those that others have too stay here for the next list. `alone`:
   * no version runs. While one runs, O_NONBLOCK of a listener stays as it is: a server that accepts until no client is left would hang
   * otherwise.
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
          // The manager keeps its own listeners anyway.
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

  /** Closes those that are none of these. A version that was given one keeps it. */
  keepOnly(listeners: readonly NamedListener[]): void {
    const wanted = new Set(listeners.map(({ spec }) => formatListenerSpec(spec)))
    for (const key of [...this.#held.keys()]) if (!wanted.has(key)) this.#drop(key)
    this.#kept.discard()
  }

  /** The next process goes on with them. */
  get areKept(): boolean {
    return this.#kept.keeps
  }

  /** The service ends, and no next process goes on with them: a connect is refused as soon as the versions accept no more. */
  end(): void {
    for (const key of this.#held.keys()) this.#kept.drop(key)
    this.#kept.discard()
    this[Symbol.dispose]()
  }

  /** The manager keeps its descriptors for the next process, if the unit is not stopped. */
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

/** Listeners that the service manager keeps for the next process, named by their specification, so that clients wait after a kill. */
export class KeptListeners {
  readonly #store: Pick<FdStore, 'keep' | 'drop'> | null
  /**
   * Listeners that a process before has left, by specification, until they are asked for. If the path of one was taken away there are two:
   * the process that bound it again was killed before it could drop the first.
   */
  readonly #left = new Map<string, OwnedFd[]>()

  /** `store` null: the manager keeps nothing, or there is none. */
  constructor(store: Pick<FdStore, 'keep' | 'drop'> | null, service: string) {
    this.#store = store
    for (const { name, fd } of keptFor(service)) {
      const key = Buffer.from(name.slice(PREFIX.length), 'base64url').toString()
      this.#left.set(key, [...(this.#left.get(key) ?? []), fd])
    }
  }

  /** The next process gets what is given to {@link keep}. */
  get keeps(): boolean {
    return this.#store !== null
  }

  /** The one of this specification, if it can be connected to still. Owned by the caller, who has it kept ({@link keep}) from now on. */
  claim(key: string, spec: ListenerSpec): OwnedFd | null {
    const there = this.#left.get(key)?.filter(fd => isOfKind(inspectOne(fd), spec)) ?? []
    const reached = there.map(fd => isReached(fd, spec))
    const found = there[reached.indexOf(true)] ?? there[reached.indexOf(null)] ?? null
    this.#forget(key, found)
    return found
  }

  /** Borrows the descriptor. */
  keep(key: string, fd: OwnedFd): void {
    this.#forget(key)
    this.#store?.keep(nameOf(key), fd)
  }

  drop(key: string): void {
    this.#store?.drop(nameOf(key))
  }

  /** The left listeners will not be asked for: clients that connect there would wait in vain. */
  discard(): void {
    for (const key of [...this.#left.keys()]) this.#forget(key)
  }

  /** Closes what is left of this specification, but for `but`, and has the manager close what it has under that name. */
  #forget(key: string, but: OwnedFd | null = null): void {
    const left = this.#left.get(key)
    this.#left.delete(key)
    const others = left?.filter(fd => fd !== but) ?? []
    if (others.length === 0) return
    this.drop(key)
    closeAll(others)
  }
}

/** Null: the kernel does not tell. */
function isReached(fd: OwnedFd, { kind, abstract, path }: ListenerSpec): boolean | null {
  return kind !== 'unix' || abstract || namesSocket(fd, path)
}

function nameOf(key: string): string {
  return PREFIX + Buffer.from(key).toString('base64url')
}

/** The variable in which a child finds its own pid: the descriptors are meant for it, not for what it starts. */
export const PID_VARIABLE = 'LISTEN_PID'

/** Marks each process of a version, also those that leave its group: see {@link ProcessMembers.ofGroup}. */
export const VERSION_VARIABLE = 'FD_BROKER_VERSION_OF'

/** The variable by which the next image of a supervisor finds its state: `take:7`; `try:3` asks only whether it could. Not for children. */
export const LEFT_VARIABLE = 'FD_BROKER_SUPERVISOR'

/** Variables that a supervisor got from its own: they are not for the programs that it starts. */
const NONE: NodeJS.ProcessEnv = {
  ...NOTHING_TOLD,
  SERVER_STARTER_PORT: undefined,
  SERVER_STARTER_GENERATION: undefined,
  [LEFT_VARIABLE]: undefined,
}

/** How a version is told of its listeners: as systemd and as Server::Starter do it. The first is descriptor 3. */
export function listenerVariables(listeners: readonly GivenListener[], version: number): NodeJS.ProcessEnv {
  if (listeners.length === 0) return { ...NONE, SERVER_STARTER_GENERATION: `${version}` }
  return {
    ...NONE,
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

/** The port of an address as {@link formatAddress} writes it: `127.0.0.1:80`, `[::1]:80`, `u127.0.0.1:53`, `/run/a.sock`, `@name`. */
export function portOf(address: string): string {
  const at = address.indexOf(':')
  const where = address.slice(at + 1).replace(/^\/\/(?!\/)/, '')
  return address.startsWith('udp:') ? `u${where}` : where
}

/** The listeners stay open until the answer; on a machine that is busy systemctl needs seconds. */
const WAIT_MS = 10_000
const MOST_TEXT = 1 << 20
/** The socket of the system's manager, or of a user's. */
const NOTIFY_PATH = '/systemd/notify'
const USERS = '/run/user/'
/** An earlier systemctl does not know `whoami`: the last service in the path of the cgroup. */
const FROM_CGROUP =
  "sed -n 's#.*/\\([^/]*\\.service\\)\\(/.*\\)\\{0,1\\}$#\\1#p' /proc/self/cgroup | head -n 1"

/**
 * Returns whether systemd stops the unit of this process: the signal of a restart is the same, its job is another. False too where systemd
 * cannot be asked, does not answer within 10 s, or `givenUp` has aborted.
 */
export async function unitStops(children: Starts, givenUp: AbortSignal): Promise<boolean> {
  const { NOTIFY_SOCKET: socket = '' } = startedAs.env
  if (!socket.endsWith(NOTIFY_PATH)) return false
  const systemctl = socket.startsWith(USERS) ? 'systemctl --user' : 'systemctl'
  const text = await outputOf(
    children,
    // systemctl would report its own failure to the unit's socket, and systemd would log that it may not.
    `exec 2>/dev/null; unset NOTIFY_SOCKET; { ${systemctl} whoami || ${FROM_CGROUP}; } && ${systemctl} list-jobs --no-legend --plain --full`,
    givenUp,
  )
  return isStopped(text)
}

/** `text`: the name of the unit, and then the jobs, each with its number, unit, type and state. */
export function isStopped(text: string): boolean {
  const [unit, ...jobs] = text.split('\n').map(line => line.trim())
  return jobs.some(line => {
    const [, name, type] = line.split(/\s+/)
    return name === unit && type === 'stop'
  })
}

/** Empty where it fails, or is given up. */
function outputOf(children: Starts, command: string, givenUp: AbortSignal): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    const late = AbortSignal.any([givenUp, AbortSignal.timeout(WAIT_MS)])
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
