import { inspectOne, type OwnedFd, setBlocking } from '../kernel/index.js'
import { bindListener, formatAddress, formatListenerSpec, type ListenerSpec } from '../listeners/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import { passedSockets } from '../supervised/passed-sockets.js'
import type { KeptListeners } from './kept-listeners.js'
import type { NamedListener } from './settings.js'

/** One that is held. */
export interface SharedListener {
  /** Its specification. */
  readonly key: string
  readonly fd: OwnedFd
  /** Bound by a service manager, whose its path stays. */
  readonly passed: boolean
  /** Bound by a process that accepts on it still, and would hang if it blocked of a sudden: O_NONBLOCK stays as it is. */
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

  /** `held`: what is there already; owned from now on. */
  constructor(kept: KeptListeners, held: readonly SharedListener[] = []) {
    this.#kept = kept
    this.#held = new Map(held.map(each => [each.key, each]))
  }

  /** Lent. */
  get held(): SharedListener[] {
    return [...this.#held.values()]
  }

  /** Where each specification really is bound. */
  get addresses(): ReadonlyMap<string, string> {
    return new Map([...this.#held].map(([key, { fd }]) => [key, formatAddress(inspectOne(fd))]))
  }

  /** Binds those that are not there, or takes what a service manager has bound or kept for them, or the process before. All or none: what was bound for a list that cannot be had is closed again. */
  provide(wanted: readonly NamedListener[], nonBlocking: boolean): GivenListener[] {
    const bound: string[] = []
    try {
      return wanted.map(({ name, spec }) => {
        const key = formatListenerSpec(spec)
        let held = this.#held.get(key)
        if (held === undefined) {
          const passed = passedSockets().take(name, spec)
          const adopted = passed?.adopted ?? false
          const fd = passed?.fd ?? this.#kept.take(key, spec) ?? bindListener(spec)
          held = { key, fd, passed: passed !== null && !adopted, adopted }
          this.#held.set(key, held)
          bound.push(key)
          // What the manager has bound it has anyway.
          if (!held.passed) this.#kept.keep(key, fd)
        }
        if (!held.adopted) setBlocking(held.fd, !nonBlocking)
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

  /** What the manager keeps it keeps for the next process, if the unit is not stopped. */
  [Symbol.dispose](): void {
    for (const held of this.#held.values()) close(held)
    this.#held.clear()
  }

  #drop(key: string): void {
    const held = this.#held.get(key)!
    this.#held.delete(key)
    this.#kept.drop(key)
    close(held)
  }
}

function close({ fd, key, passed }: SharedListener): void {
  if (!passed) removeUnixPath(fd, key)
  fd.close()
}
