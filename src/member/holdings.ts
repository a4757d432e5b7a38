import { FdbError } from '../errors.js'
import { accepts } from '../handoff/phases.js'
import type { Entry } from '../holder/registry.js'
import { inspectOne } from '../kernel/index.js'
import { removeUnixPath } from '../listeners/unix-path.js'
import type { Hosting } from './hosting.js'
import { OfferedListeners } from './offered-listeners.js'
import type { Shared } from './shared.js'
import { fencedFrom } from './unfit.js'
import { Unserved, type UnservedOption } from './unserved.js'

/** What comes into the registry of this process, and what goes. */
export class Holdings {
  readonly #shared: Shared
  readonly #hosting: () => Hosting
  /** Listeners that this version has bound and that are not the service's for good yet; null: all that it binds is. */
  #made: Set<Entry> | null = new Set()

  readonly #refuse: (error: FdbError) => void
  readonly #unserved = new Unserved()
  /** Of the version before. */
  readonly offered: OfferedListeners

  /** `refuse`: this version cannot take over. */
  constructor(shared: Shared, hosting: () => Hosting, refuse: (error: FdbError) => void) {
    this.#shared = shared
    this.#hosting = hosting
    this.#refuse = refuse
    this.offered = new OfferedListeners(shared)
  }

  /**
   * Takes a listener or descriptor into the registry, in place of the one of that name. Daemon hosting: the daemon keeps
   * it too, so that it outlives this process; when it does not, nothing has changed here, and the descriptor is closed. `made`: this
   * version has bound it, so that its path goes with a version that does not come to serve for good.
   */
  async register(entry: Entry, made = false): Promise<void> {
    const hosting = this.#hosting()
    const { machine, registry, wanted } = this.#shared
    if (made) this.#made?.add(entry)
    try {
      if (machine.phase === 'frozen' || machine.phase === 'standby') await this.#decided(entry)
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

  /** Throws ERR_FDB_UNSERVED where clients would not be accepted any more; `meant`: by these listeners that is meant. */
  checkServed(meant: UnservedOption): void {
    this.#unserved.allow(meant)
    this.#unserved.check(this.#shared.listeners)
  }

  /** The service has taken it in since the Offer: this version keeps it, or is refused where it would not serve it. Takes the descriptor. */
  takeLate(entry: Entry): void {
    const { listeners, machine, registry, wanted } = this.#shared
    const { name, role, fd } = entry
    if (role === 'named') {
      registry.put(entry)
      wanted.add(name)
      return
    }
    const present = listeners.some(listener => listener.name === name) ? registry.get(name)?.fd : undefined
    if (present === undefined) registry.put(entry)
    else {
      const same = inspectOne(present).ino === inspectOne(fd).ino
      // The listener borrows the one that there is.
      fd.close()
      if (same) return
    }
    this.#unserved.comes(entry, present !== undefined)
    if (machine.phase !== 'ready') return
    try {
      this.#unserved.check(listeners)
    } catch (error) {
      this.#refuse(FdbError.from(error))
    }
  }

  /** The handoff that commits comes to its end first. Closes what cannot be taken in, and throws ERR_FDB_FENCED where another process serves. */
  async #decided({ name, fd, spec }: Entry): Promise<void> {
    const { changes, departure, machine, settings } = this.#shared
    const { freeze, prepare, commit } = settings.times
    await changes.until(() => departure.over || machine.phase !== 'frozen', freeze + prepare + commit)
    if (!departure.over && accepts(machine.phase)) return
    removeUnixPath(fd, spec)
    fd.close()
    throw fencedFrom(name)
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
    this.offered.close()
    for (const name of registry.names) if (!wanted.has(name)) this.#drop(name)
    this.#hosting().settleFormer()
  }

  /** All is closed. This process leaves, and the paths that it has made with it, unless they are the service's. */
  close(): void {
    const { registry } = this.#shared
    for (const { name, fd, spec } of this.#made ?? [])
      if (registry.get(name)?.fd === fd) removeUnixPath(fd, spec)
    this.#made = null
    this.offered.close()
    registry.close()
  }

  #drop(name: string): void {
    this.#hosting().giveUp(name)
    this.#shared.registry.drop(name)
  }
}
