import type { Entry } from '../holder/registry.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import type { Hosting } from './hosting.js'
import type { Shared } from './shared.js'

/** What comes into the registry of this process, and what goes. */
export class Holdings {
  readonly #shared: Shared
  readonly #hosting: () => Hosting
  /** Listeners that this version has bound and that are not the service's for good yet; null: all that it binds is. */
  #made: Set<Entry> | null = new Set()

  constructor(shared: Shared, hosting: () => Hosting) {
    this.#shared = shared
    this.#hosting = hosting
  }

  /**
   * Takes a listener or descriptor into the registry, in place of the one of that name. Daemon hosting: the daemon keeps
   * it too, so that it outlives this process; when it does not, nothing has changed here, and the descriptor is closed. `made`: this
   * version has bound it, so that its path goes with a version that does not come to serve for good.
   */
  async register(entry: Entry, made = false): Promise<void> {
    const hosting = this.#hosting()
    const { registry, wanted } = this.#shared
    if (made) this.#made?.add(entry)
    try {
      const kept = hosting.keep(entry, made && this.#made !== null)
      if (kept !== undefined) await kept
    } catch (error) {
      this.#made?.delete(entry)
      throw error
    }
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
    this.#made = null
    for (const name of registry.names) if (!wanted.has(name)) this.#drop(name)
    this.#hosting().settleFormer()
  }

  /** All is closed. This process leaves, and the paths that it has made with it, unless they are the service's. */
  close(): void {
    const { registry } = this.#shared
    for (const { name, fd, spec } of this.#made ?? [])
      if (registry.get(name)?.fd === fd) removeUnixPath(fd, spec)
    this.#made = null
    registry.close()
  }

  #drop(name: string): void {
    this.#hosting().giveUp(name)
    this.#shared.registry.drop(name)
  }
}
