import { closeAll, inspectOne, namesSocket, type OwnedFd } from '../kernel/index.js'
import { isOfKind, type ListenerSpec } from '../listeners/index.js'
import { type FdStore, keptFor } from '../supervised/fd-store.js'

const PREFIX = 'listener-'

/**
 * Listeners that the service manager keeps for the next process, each under a name that tells its specification: when this one is
 * killed, who connects waits for the next.
 */
export class KeptListeners {
  readonly #store: FdStore | null
  /** What a process before has left, by specification, and nobody has asked for yet. */
  readonly #left: Map<string, OwnedFd>

  /** `store` null: the manager keeps nothing, or there is none. */
  constructor(store: FdStore | null, service: string) {
    this.#store = store
    this.#left = new Map(
      keptFor(service).map(({ name, fd }) => [
        Buffer.from(name.slice(PREFIX.length), 'base64url').toString(),
        fd,
      ]),
    )
  }

  /** The one of this specification, if it can be connected to still. Owned by the caller. */
  take(key: string, spec: ListenerSpec): OwnedFd | null {
    const fd = this.#left.get(key)
    if (fd === undefined) return null
    this.#left.delete(key)
    const reached = spec.kind !== 'unix' || spec.abstract || namesSocket(fd, spec.path) !== false
    if (reached && isOfKind(inspectOne(fd), spec)) return fd
    fd.close()
    return null
  }

  /** Borrows the descriptor. */
  keep(key: string, fd: OwnedFd): void {
    this.#store?.keep(nameOf(key), fd)
  }

  drop(key: string): void {
    this.#store?.drop(nameOf(key))
  }

  /** Nobody will ask for what is left: who connects there would wait in vain. */
  discard(): void {
    for (const key of this.#left.keys()) this.drop(key)
    closeAll(this.#left.values())
    this.#left.clear()
  }
}

function nameOf(key: string): string {
  return PREFIX + Buffer.from(key).toString('base64url')
}
