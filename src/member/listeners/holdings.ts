import { accepts } from '../../handoff/phases.js'
import type { Entry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import { isSocketAt, removeUnixPath } from '../../listeners/unix-path.js'
import { entryFencedError } from '../lifecycle/cannot-serve.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'

interface HoldingsDeps {
  readonly settings: Pick<Settings, 'logger' | 'times'>
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly registry: Registry
  readonly hosting: Hosting
}

/** Adds listeners and other descriptors to this process's registry, and removes them. */
export class Holdings {
  readonly #deps: HoldingsDeps
  /** The listeners that this version has bound itself. Null as soon as the handoff cannot be undone. */
  #bound: Set<Entry> | null = new Set()

  constructor(deps: HoldingsDeps) {
    this.#deps = deps
    deps.registry.isProvisional = entry => this.#bound?.has(entry) ?? false
  }

  /**
   * Adds a listener or descriptor to the registry, in daemon hosting also to the daemon's. Replaces an earlier entry of that name. If it
   * rejects, nothing has changed and the descriptor is closed. `bound`: this version has bound the listener, so that its Unix path must be
   * removed if the handoff is undone.
   */
  async register(entry: Entry, bound = false): Promise<void> {
    const { hosting, machine, registry } = this.#deps
    if (bound) this.#bound?.add(entry)
    try {
      if (machine.phase === 'frozen' || machine.phase === 'standby') await this.#untilDecided(entry)
      const stored = hosting.store(entry, bound && this.#bound !== null)
      if (stored !== undefined) await stored
    } catch (error) {
      this.#bound?.delete(entry)
      throw error
    }
    hosting.beforeDrop?.(entry.name)
    registry.put(entry)
    registry.wanted.add(entry.name)
    hosting.removeFormerPaths?.()
  }

  /**
   * Keeps an entry of the previous version, because this one uses it. Resolves when a daemon knows that too, which closes its dups of all other
   * entries when the handoff cannot be undone any more. If it rejects, the entry is not kept, unless it was before.
   */
  async want(name: string): Promise<void> {
    const { hosting, machine, registry } = this.#deps
    const entry = registry.get(name)
    if (entry === undefined || registry.wanted.has(name)) return
    registry.wanted.add(name)
    // This version's Ready will name it.
    if (machine.phase === 'joining') return
    try {
      await hosting.adoptLate?.(entry)
    } catch (error) {
      registry.wanted.delete(name)
      throw error
    }
  }

  /** As {@link want}, for a caller that does not wait. */
  wantSoon(name: string): void {
    this.want(name).catch(error => {
      this.#deps.settings.logger.warn(
        { err: error, name },
        'the daemon may close a descriptor that this version has asked for: the next version would not get it',
      )
    })
  }

  /** Waits until the handoff under way ends. If another process serves then, closes the descriptor and throws ERR_FDB_FENCED. */
  async #untilDecided(entry: Entry): Promise<void> {
    const { machine, settings, shutdown } = this.#deps
    const { freeze, prepare, commit } = settings.times
    await machine.changes.until(() => shutdown.over || machine.phase !== 'frozen', freeze + prepare + commit)
    if (!shutdown.over && accepts(machine.phase)) return
    removePathOf(entry)
    entry.fd.close()
    throw entryFencedError(entry.name)
  }

  /** Removes an entry, from the daemon's registry too. */
  unregister(name: string): void {
    const { hosting, registry } = this.#deps
    const entry = registry.get(name)
    // No other version has a socket that this one has bound, and not offered: its path goes at once, as that of any server.
    if (entry !== undefined && this.#bound?.delete(entry) && !this.#isTwice(entry)) removePathOf(entry)
    this.#drop(name)
    hosting.removeFormerPaths?.()
    hosting.drop?.(name)
  }

  /** Whether another entry has the path of this one. */
  #isTwice(entry: Entry): boolean {
    if (entry.role !== 'listener') return false
    const { entries } = this.#deps.registry
    return entries.some(
      other => other !== entry && other.role === 'listener' && isSocketAt(other.fd, entry.spec),
    )
  }

  /** See {@link Hosting.dropped}. */
  dropped(told: boolean): Promise<void> | undefined {
    return this.#deps.hosting.dropped(told)
  }

  /** The handoff cannot be undone any more: closes the entries that this version did not ask for. */
  settle(): void {
    const { hosting, registry } = this.#deps
    const anyBound = this.#bound !== null && this.#bound.size > 0
    this.#bound = null
    for (const name of registry.names) if (!registry.wanted.has(name)) this.#drop(name)
    if (anyBound) registry.changed()
    hosting.removeFormerPaths?.()
  }

  /** Closes all entries. If the handoff can still be undone, removes the Unix paths that this version has bound. */
  close(): void {
    const { registry } = this.#deps
    for (const entry of this.#bound ?? []) if (registry.get(entry.name)?.fd === entry.fd) removePathOf(entry)
    this.#bound = null
    registry.close()
  }

  #drop(name: string): void {
    const { hosting, registry } = this.#deps
    hosting.beforeDrop?.(name)
    registry.drop(name)
  }
}

function removePathOf(entry: Entry): void {
  if (entry.role === 'listener') removeUnixPath(entry.fd, entry.spec)
}
