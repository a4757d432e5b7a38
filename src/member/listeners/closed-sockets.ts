import type { OwnedFd } from '../../kernel/index.js'
import { addressOf, type ListenerSpec } from '../../listeners/index.js'
import { isSocketAt } from '../../listeners/unix-path.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'

/** In daemon hosting no event tells that a handoff has failed. */
const LOOK_MS = 200

export interface ClosedSocketsDeps {
  readonly hosting: Pick<
    Hosting,
    'givenUp' | 'givenUpClosed' | 'isHandingOver' | 'isHeard' | 'standsBy' | 'unfitStandby'
  >
  readonly machine: Pick<Machine, 'changes' | 'phase'>
  readonly shutdown: Pick<Shutdown, 'isRetired' | 'over' | 'yields'>
}

/**
 * The sockets of listeners that this version has closed while a successor or a standby has them too (or, if this one stands by, the version that serves). Until that process closes its copies, the
 * kernel lets no process bind their addresses: a listener that this version opens there again gets its former socket.
 */
export class ClosedSockets {
  readonly #deps: ClosedSocketsDeps
  readonly #sockets = new Map<string, OwnedFd>()
  #looks: NodeJS.Timeout | undefined

  constructor(deps: ClosedSocketsDeps) {
    this.#deps = deps
  }

  get any(): boolean {
    return this.#sockets.size > 0
  }

  /** Keeps the socket of a listener that is about to be closed, if another process has it too. */
  keep(spec: ListenerSpec, fd: OwnedFd): void {
    if (!this.#isShared() || (spec.kind !== 'unix' && spec.port === 0)) return
    const address = addressOf(spec)
    this.#sockets.get(address)?.close()
    this.#sockets.set(address, fd.share())
    const { changes } = this.#deps.machine
    this.#looks ??= setInterval(() => changes.notify(), LOOK_MS).unref()
    void changes.until(() => !this.#isShared(), null).then(() => this.#close())
  }

  /** Closes the sockets unless another process has them. */
  closeUnshared(): void {
    if (!this.#isShared()) this.#close()
  }

  /** Returns a dup of the socket at this address, or null if none is kept. */
  dup(spec: ListenerSpec): OwnedFd | null {
    return this.#at(spec)?.dup() ?? null
  }

  /** Gives the socket at this address to the caller, or returns null if none is kept. */
  take(spec: ListenerSpec): OwnedFd | null {
    const fd = this.#at(spec)
    if (fd !== null) this.#sockets.delete(addressOf(spec))
    return fd
  }

  /** A Unix path that has been removed, or replaced, can be bound again. */
  #at(spec: ListenerSpec): OwnedFd | null {
    const fd = this.#sockets.get(addressOf(spec)) ?? null
    const hasPath = spec.kind === 'unix' && !spec.abstract
    return fd !== null && hasPath && !isSocketAt(fd, spec) ? null : fd
  }

  #isShared(): boolean {
    const { hosting, machine, shutdown } = this.#deps
    if (shutdown.over) return false
    if (machine.phase === 'standby' || hosting.isHandingOver) return true
    return hosting.standsBy || hosting.unfitStandby !== null
  }

  #close(): void {
    clearInterval(this.#looks)
    this.#looks = undefined
    for (const fd of this.#sockets.values()) fd.close()
    this.#sockets.clear()
  }
}
