import type { Entry } from '../holder/registry.js'
import type { Hosting } from './hosting.js'
import type { Shared } from './shared.js'

/** What comes into the registry of this process, and what goes. */
export class Holdings {
  readonly #shared: Shared
  readonly #hosting: () => Hosting

  constructor(shared: Shared, hosting: () => Hosting) {
    this.#shared = shared
    this.#hosting = hosting
  }

  /**
   * Takes a listener or descriptor into the registry, in place of the one of that name. Daemon hosting: the daemon keeps
   * it too, so that it outlives this process; when it does not, nothing has changed here, and the descriptor is closed.
   */
  async register(entry: Entry): Promise<void> {
    const hosting = this.#hosting()
    const { registry, wanted } = this.#shared
    const kept = hosting.keep(entry)
    if (kept !== undefined) await kept
    hosting.giveUp(entry.name)
    registry.put(entry)
    wanted.add(entry.name)
    hosting.settleFormer()
  }

  /** Asks for it no more; daemon hosting: the daemon lets go of it too. */
  unregister(name: string): void {
    const hosting = this.#hosting()
    this.#shared.wanted.delete(name)
    this.#drop(name)
    hosting.settleFormer()
    hosting.drop(name)
  }

  /** The handoff cannot be undone any more: what this version did not ask for ends here, as nobody else needs it. */
  settle(): void {
    const { registry, wanted } = this.#shared
    for (const name of registry.names) if (!wanted.has(name)) this.#drop(name)
    this.#hosting().settleFormer()
  }

  #drop(name: string): void {
    this.#hosting().giveUp(name)
    this.#shared.registry.drop(name)
  }
}
