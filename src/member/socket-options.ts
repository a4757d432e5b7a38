import { inspectOne, type OwnedFd } from '../kernel/index.js'
import { adjustListener, type ListenerSpec, type OptionChange, optionsNow } from '../listeners/index.js'

export interface SocketOptionsParts {
  /** Borrowed. */
  readonly fd: OwnedFd
  readonly spec: ListenerSpec
  /** The spec of the version before; null: unknown. */
  readonly before: ListenerSpec | null
  /** This process has bound the socket with these options: nothing is left to be set. */
  readonly bound: boolean
}

/**
 * The options of a socket that two versions share (mode and owner of its path, backlog, reusePort …). A version sets its own when it begins
 * to serve, never before; one that comes back sets what was there when its successor was about to begin.
 */
export class SocketOptions {
  readonly #fd: OwnedFd
  readonly #spec: ListenerSpec
  #before: ListenerSpec | null
  /** Null: they are as this process wants them. */
  #wanted: ListenerSpec | null

  constructor({ fd, spec, before, bound }: SocketOptionsParts) {
    this.#fd = fd
    this.#spec = spec
    this.#before = before
    this.#wanted = bound ? null : spec
  }

  /** This process begins to serve. Returns what had to change. Throws what the kernel says. */
  begin(): OptionChange[] {
    const wanted = this.#wanted
    if (wanted === null) return []
    const changes = adjustListener(this.#fd, inspectOne(this.#fd), this.#before, wanted)
    this.#wanted = null
    return changes
  }

  /** Another version may begin to serve: what is there now is what a way back brings back. Throws what the kernel says. */
  keep(): void {
    if (this.#wanted !== null) return
    this.#wanted = optionsNow(this.#fd, this.#spec)
    this.#before = null
  }
}
