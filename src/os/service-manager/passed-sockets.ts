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
const FIRST_FD = 3
/** A larger LISTEN_FDS is ignored as a mistake. */
const MOST_SOCKETS = 20_000
/** Name prefix of descriptors that the manager keeps for a service; see {@link FdStore}. */
const STORED_PREFIX = 'fdb.'

/** A passed socket that no listener has asked for. */
export interface UnclaimedSocket {
  readonly name: string
  readonly fd: OwnedFd
  /** Whether another program may use the socket, so that O_NONBLOCK must not change. */
  readonly inUse?: boolean
}

export interface PassedSocket extends UnclaimedSocket {
  readonly about: Inspected
}

export interface PassedListener {
  /** Owned by the caller. */
  readonly fd: OwnedFd
  /** The socket has the listener's name, but another address than the one asked for. */
  readonly elsewhere: boolean
  /** Another process, which knows nothing of fd-broker and is going to end, has it too: see {@link PassedSockets.offer}. */
  readonly adopted: boolean
  /** Whether another program may use the socket, so that O_NONBLOCK must not change. */
  readonly inUse: boolean
}

/**
 * Listening sockets that a service manager bound for this process (`LISTEN_FDS`, `LISTEN_FDNAMES`: socket units). Unclaimed sockets are
 * left alone: the manager has them too.
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

  /** Borrowed by the caller. */
  get unclaimed(): UnclaimedSocket[] {
    return [...this.#sockets, ...this.#stored].map(({ about, ...each }) => each)
  }

  /** Returns the socket at this address, else, for tcp and udp, the only one of this name; or null. A Unix path still belongs to the manager. */
  claim(name: string, spec: ListenerSpec): PassedListener | null {
    const fitting = this.#sockets.filter(({ about }) => isOfKind(about, spec))
    const there = fitting.filter(({ about }) => isLocatedAt(about, spec))
    const found = there.find(each => each.name === name) ?? there[0]
    if (found !== undefined) return this.#found(found, false)
    const named = spec.kind === 'unix' ? [] : fitting.filter(each => each.name === name)
    return named.length === 1 ? this.#found(named[0]!, true) : null
  }

  /**
   * Adds listeners taken from another process (`adopted`), or held by a daemon. Owns them; {@link discard} closes the adopted ones that
   * no caller has claimed.
   */
  offer(sockets: readonly PassedSocket[], adopted = true): void {
    this.#sockets = [...sockets.map(each => ({ ...each, inUse: true })), ...this.#sockets]
    if (adopted) for (const { fd } of sockets) this.#adopted.add(fd)
  }

  /** Closes adopted sockets that are unclaimed: clients would wait on a listener that this process holds but does not accept on. */
  discard(): void {
    this.#sockets = this.#sockets.filter(({ fd }) => !this.#adopted.has(fd))
    closeAll(this.#adopted)
    this.#adopted.clear()
  }

  /** Takes the listening Unix socket of this path. Owned by the caller. */
  takePath(path: string): OwnedFd | null {
    const found = this.#sockets.find(
      ({ about }) => about.family === 'unix' && about.accepting && !about.abstract && about.address === path,
    )
    return found === undefined ? null : this.#give(found)
  }

  /** Takes the descriptors that an earlier process stored in the manager under this prefix. The caller owns them. */
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

/** Returns this process's passed sockets. A successor inherits the variables but not the sockets: LISTEN_PID is the pid of their owner. */
export function passedSockets(): PassedSockets {
  ours ??= new PassedSockets(passedBy(startedAs.env))
  return ours
}

/** Replaces this process's passed sockets by those kept across an exec. Owns the descriptors. */
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
      // The descriptor is not open: the variable is wrong.
    }
  }
  return passed
}

const MOST_NAME = 255

/** Stores descriptors in the service manager (`FileDescriptorStoreMax=`) for the next process, until the unit stops. */
export class FdStore {
  readonly #socket: Pick<NotifySocket, 'send'>
  readonly #prefix: string

  constructor(socket: Pick<NotifySocket, 'send'>, service: string) {
    this.#socket = socket
    this.#prefix = prefixOf(service)
  }

  /** Stores a descriptor, which is borrowed. The same object under the same name is stored once. A manager without a store closes it. */
  keep(name: string, fd: OwnedFd): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.send({ FDSTORE: 1, FDNAME: whole, FDPOLL: 0 }, fd)
  }

  drop(name: string): void {
    const whole = this.#prefix + name
    if (whole.length <= MOST_NAME) this.#socket.send({ FDSTOREREMOVE: 1, FDNAME: whole })
  }
}

/** Takes the descriptors that the manager stored for this service, under the names of {@link FdStore.keep}. The caller owns them. */
export function takeStoredFor(service: string): { readonly name: string; readonly fd: OwnedFd }[] {
  const prefix = prefixOf(service)
  return passedSockets()
    .takeStored(prefix)
    .map(({ name, fd }) => ({ name: name.slice(prefix.length), fd }))
}

/** Encoded, because a colon would end the name. */
function prefixOf(service: string): string {
  return `${STORED_PREFIX}${encodeURIComponent(service)}.`
}
