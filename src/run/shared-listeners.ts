import { inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { bindListener, formatAddress, formatListenerSpec, type ListenerSpec } from '../listeners/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import { passedSockets } from '../os/service-manager/passed-sockets.js'
import type { KeptListeners } from './kept-listeners.js'
import type { Predecessor } from './predecessor.js'
import type { NamedListener } from './settings.js'

/** One that is held. */
export interface SharedListener {
  /** Its specification. */
  readonly key: string
  /** By which the first version that wanted it has called it. */
  readonly name: string
  readonly fd: OwnedFd
  /** Somebody else has it too and goes on to, as a service manager does: its path stays theirs, and nobody could bind it anew. */
  readonly passed: boolean
  /** Bound by a process that accepts on it still. */
  readonly adopted: boolean
}

/** One as a version gets it. The descriptor is lent. */
export interface GivenListener {
  readonly name: string
  readonly fd: OwnedFd
  readonly spec: ListenerSpec
  /** Where it really is: `tcp://127.0.0.1:8080`. */
  readonly address: string
}

/**
 * The listeners of all versions: bound once, for as long as one version wants them. What connects between two versions waits in the
 * kernel's queue.
 */
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
   * Binds those that are not there, or takes what a service manager has bound or kept for them, or the process before. All or none: what was
   * bound for a list that cannot be had is closed again; what others have too stays here for the next list. `alone`: no version runs. Where
   * one does, whether a listener blocks stays as it is: a server that accepts until there is nobody left would hang in that.
   */
  provide(wanted: readonly NamedListener[], nonBlocking: boolean, alone: boolean): GivenListener[] {
    const bound: string[] = []
    try {
      return wanted.map(({ name, spec }) => {
        const key = formatListenerSpec(spec)
        let held = this.#held.get(key)
        let free = alone && held !== undefined && !held.passed && !held.adopted
        if (held === undefined) {
          const passed = passedSockets().take(name, spec)
          const adopted = passed?.adopted ?? false
          const fd = passed?.fd ?? this.#kept.take(key, spec) ?? bindListener(spec)
          held = { key, name, fd, passed: passed !== null && !adopted, adopted }
          this.#held.set(key, held)
          if (passed === null) bound.push(key)
          // What the manager has bound it has anyway.
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

  /** What the manager keeps it keeps for the next process, if the unit is not stopped. */
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
