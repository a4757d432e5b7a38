import { closeAll, inspectOne, namesSocket, type OwnedFd } from '../kernel/index.js'
import { isOfKind, type ListenerSpec } from '../listeners/index.js'
import { type FdStore, keptFor } from '../os/service-manager/fd-store.js'

const PREFIX = 'listener-'

/**
 * Listeners that the service manager keeps for the next process, each under a name that tells its specification: when this one is
 * killed, who connects waits for the next.
 */
export class KeptListeners {
  readonly #store: Pick<FdStore, 'keep' | 'drop'> | null
  /**
   * What a process before has left, by specification, and nobody has asked for yet. Where the path of one was taken away there are two: who
   * bound it anew was killed before it could have the first dropped.
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
  take(key: string, spec: ListenerSpec): OwnedFd | null {
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

  /** Nobody will ask for what is left: who connects there would wait in vain. */
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
