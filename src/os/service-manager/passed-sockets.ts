import {
  closeAll,
  type Inspected,
  inspectOne,
  type OwnedFd,
  ownNumber,
  releaseNumber,
} from '../../kernel/index.js'
import { isLocatedAt, isOfKind, type ListenerSpec } from '../../listeners/index.js'
import { startedAs } from '../command-line.js'
import type { NotifySocket } from './notify-socket.js'

/** The first passed descriptor, see sd_listen_fds(3). */
export const FIRST_FD = 3
/** A larger LISTEN_FDS must be a mistake, and is ignored. */
const MOST_SOCKETS = 20_000
/** Prefix of the names of descriptors that the manager keeps for a service; see {@link FdStore}. */
const STORED_PREFIX = 'fdb.'

/** A passed socket that no listener uses yet. */
export interface UnclaimedSocket {
  readonly name: string
  readonly fd: OwnedFd
  /** Whether another process may use the socket: then O_NONBLOCK must not change. */
  readonly inUse?: boolean
}

export interface PassedSocket extends UnclaimedSocket {
  readonly about: Inspected
}

export interface PassedListener {
  /** Owned by the caller. */
  readonly fd: OwnedFd
  /** Whether the socket has the wanted name but another address. */
  readonly elsewhere: boolean
  /** Whether the socket was taken from a process without fd-broker, which still has it and will end: see {@link PassedSockets.offer}. */
  readonly adopted: boolean
  /** Whether another process may use the socket: then O_NONBLOCK must not change. */
  readonly inUse: boolean
}

/**
 * Sockets that this process got instead of binding them: from a service manager (`LISTEN_FDS`, `LISTEN_FDNAMES`), from a daemon or from a
 * process that is taken over. A service manager's sockets that no listener claims stay open, because the manager keeps them too.
 */
export class PassedSockets {
  #sockets: readonly PassedSocket[]
  #stored: readonly PassedSocket[]
  readonly #adopted = new Set<OwnedFd>()

  constructor(passed: readonly UnclaimedSocket[]) {
    const all = passed.map(each => ({ ...each, about: inspectOne(each.fd) }))
    this.#stored = all.filter(({ name }) => name.startsWith(STORED_PREFIX))
    this.#sockets = all.filter(({ name }) => !name.startsWith(STORED_PREFIX))
  }

  /** The caller borrows the descriptors. */
  get unclaimed(): UnclaimedSocket[] {
    return [...this.#sockets, ...this.#stored].map(({ about, ...each }) => each)
  }

  /** Takes the socket at this address or, for tcp and udp, the only one with this name; else null. The manager keeps a Unix path. */
  claim(name: string, spec: ListenerSpec): PassedListener | null {
    const found = this.#find(name, spec)
    return found && this.#found(found.socket, found.elsewhere)
  }

  /** Whether {@link claim} would return a socket. */
  has(name: string, spec: ListenerSpec): boolean {
    return this.#find(name, spec) !== null
  }

  #find(name: string, spec: ListenerSpec): { socket: PassedSocket; elsewhere: boolean } | null {
    const fitting = this.#sockets.filter(({ about }) => isOfKind(about, spec))
    const there = fitting.filter(({ about }) => isLocatedAt(about, spec))
    const found = there.find(each => each.name === name) ?? there[0]
    if (found !== undefined) return { socket: found, elsewhere: false }
    const named = spec.kind === 'unix' ? [] : fitting.filter(each => each.name === name)
    return named.length === 1 ? { socket: named[0]!, elsewhere: true } : null
  }

  /**
   * Adds listeners, and owns them. `adopted`: they were taken from another process, and {@link discard} closes those that are not claimed.
   * Otherwise a daemon holds them.
   */
  offer(sockets: readonly PassedSocket[], adopted = true): void {
    this.#sockets = [...sockets.map(each => ({ ...each, inUse: true })), ...this.#sockets]
    if (adopted) for (const { fd } of sockets) this.#adopted.add(fd)
  }

  /** Closes adopted sockets that are not claimed: if this process kept them open without accepting, clients would wait in their queues. */
  discard(): void {
    this.#sockets = this.#sockets.filter(({ fd }) => !this.#adopted.has(fd))
    closeAll(this.#adopted)
    this.#adopted.clear()
  }

  /** Takes the listening Unix socket at this path; null if there is none. The caller owns it. */
  takePath(path: string): OwnedFd | null {
    const found = this.#sockets.find(
      ({ about }) => about.family === 'unix' && about.accepting && !about.abstract && about.address === path,
    )
    return found === undefined ? null : this.#give(found)
  }

  /** Whether an earlier process stored descriptors in the manager with this prefix, and they are not taken. */
  hasStored(prefix: string): boolean {
    return this.#stored.some(({ name }) => name.startsWith(prefix))
  }

  /** Takes the descriptors that an earlier process stored in the manager with this prefix. The caller owns them. */
  takeStored(prefix: string): { readonly name: string; readonly fd: OwnedFd }[] {
    const taken = this.#stored.filter(({ name }) => name.startsWith(prefix))
    this.#stored = this.#stored.filter(({ name }) => !name.startsWith(prefix))
    return taken
  }

  #found(found: PassedSocket, elsewhere: boolean): PassedListener {
    const adopted = this.#adopted.delete(found.fd)
    return { fd: this.#give(found), elsewhere, adopted, inUse: found.inUse ?? false }
  }

  #give(given: PassedSocket): OwnedFd {
    this.#sockets = this.#sockets.filter(each => each !== given)
    return given.fd
  }
}

let ours: PassedSockets | null = null

/** Returns this process's passed sockets: those of LISTEN_FDS if LISTEN_PID is its pid. A child inherits only the variables. */
export function passedSockets(): PassedSockets {
  ours ??= new PassedSockets(passedBy(startedAs.env))
  return ours
}

/** Replaces this process's passed sockets by those of the previous program in this process. Owns the descriptors. */
export function restorePassedSockets(unclaimed: readonly UnclaimedSocket[]): void {
  ours = new PassedSockets(unclaimed)
}

function passedBy({
  LISTEN_FDS,
  LISTEN_FDNAMES = '',
  LISTEN_PID,
}: Readonly<NodeJS.ProcessEnv>): UnclaimedSocket[] {
  const count = Number(LISTEN_FDS)
  if (LISTEN_PID !== String(process.pid) || !(count >= 1 && count <= MOST_SOCKETS)) return []
  const names = LISTEN_FDNAMES.split(':')
  const passed: UnclaimedSocket[] = []
  for (let i = 0; i < count; i++) {
    const name = names[i] ?? ''
    try {
      const fd = ownNumber(FIRST_FD + i, `passed socket ${name}`)
      const about = inspectOne(fd)
      if (about.error === undefined && (about.type === 'socket' || name.startsWith(STORED_PREFIX)))
        passed.push({ name, fd })
      else releaseNumber(fd)
    } catch {
      // The descriptor is not open, although LISTEN_FDS counts it.
    }
  }
  return passed
}

const MOST_NAME = 255

/** Stores descriptors in the service manager (`FileDescriptorStoreMax=`), which passes them to the unit's next process, until it stops. */
export class FdStore {
  readonly #socket: Pick<NotifySocket, 'send'>
  readonly #prefix: string

  constructor(socket: Pick<NotifySocket, 'send'>, service: string) {
    this.#socket = socket
    this.#prefix = prefixOf(service)
  }

  /** Stores a duplicate. The manager stores the same file only once under a name; a manager without a store closes the duplicate. */
  keep(name: string, fd: OwnedFd): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.send({ FDSTORE: 1, FDNAME: whole, FDPOLL: 0 }, fd)
  }

  drop(name: string): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.send({ FDSTOREREMOVE: 1, FDNAME: whole })
  }
}

/** Whether the manager has passed descriptors that it stored for this service, and they are not taken. */
export function hasStoredFor(service: string): boolean {
  return passedSockets().hasStored(prefixOf(service))
}

/** Takes the descriptors that the manager stored for this service, with the names given to {@link FdStore.keep}. The caller owns them. */
export function takeStoredFor(service: string): { readonly name: string; readonly fd: OwnedFd }[] {
  const prefix = prefixOf(service)
  return passedSockets()
    .takeStored(prefix)
    .map(({ name, fd }) => ({ name: name.slice(prefix.length), fd }))
}

/** The service's name is encoded: in LISTEN_FDNAMES a colon ends a name. */
function prefixOf(service: string): string {
  return `${STORED_PREFIX}${encodeURIComponent(service)}.`
}
