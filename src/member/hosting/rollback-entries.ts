import { accepts, isGranted } from '../../handoff/phases.js'
import { type Entry, entryItem, type NamedEntry, namedEntry } from '../../holder/entry.js'
import type { Peer } from '../../holder/peer.js'
import type { Registry } from '../../holder/registry.js'
import { SuccessorNames } from '../../holder/successor-names.js'
import { closeAll } from '../../kernel/index.js'
import type { BundleItem } from '../../wire/bundle.js'
import { peerLeft } from '../../wire/link.js'
import { entryFencedError } from '../lifecycle/cannot-serve.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { JoinedHolder } from './joined-holder.js'

export interface RollbackEntriesDeps {
  readonly settings: Pick<Settings, 'logger' | 'timeout'>
  readonly machine: Machine
  readonly shutdown: Pick<Shutdown, 'over'>
  readonly registry: Registry
  readonly joined: Pick<JoinedHolder, 'link'>
  /** Adds a descriptor that the successor has named; owns it. */
  readonly takeNamed: (entry: NamedEntry) => void
}

/**
 * Embedded hosting: the entries that the incumbent must have if it takes over again. A descriptor that the successor names must outlive a
 * rollback, as a change of the state does: the successor sends it, and the incumbent keeps it until it has released the successor.
 */
export class RollbackEntries {
  readonly #deps: RollbackEntriesDeps
  /** The names that this process has given to descriptors while the incumbent can take over again. */
  readonly #own = new Set<string>()
  /** The descriptors that the successor has named since its Commit. */
  readonly #ofSuccessor = new SuccessorNames()

  constructor(deps: RollbackEntriesDeps) {
    this.#deps = deps
  }

  /** Sends an entry to the incumbent, a named descriptor after the Commit before the call ends. `bound`: see `Hosting.store`. */
  store(entry: Entry, bound: boolean): void | Promise<void> {
    if (this.#deps.machine.holder !== null) return
    if (bound) this.#reportPath(entry)
    if (entry.role !== 'named') return
    this.#own.add(entry.name)
    if (accepts(this.#deps.machine.phase)) return this.#giveToIncumbent(entry)
  }

  /** Sends the descriptors that this version has named before its Commit: they arrive before Serving. */
  sendEarly(): void {
    const { registry, settings } = this.#deps
    const items = registry.items().filter(({ name = '' }) => this.#own.has(name))
    this.#send(items, error =>
      settings.logger.warn(
        { err: error },
        'the previous version did not get the descriptors that this one has named: after a rollback it lacks them',
      ),
    )
  }

  /** This process serves again: it has what its successor has named. */
  takeBack(): void {
    for (const entry of this.#ofSuccessor.take()) this.#deps.takeNamed(entry)
  }

  /** Keeps what a successor has named since its Commit, until it is released or rolled back. Owns the items. */
  keep({ id }: Peer, items: readonly BundleItem[]): void {
    const { phase, owner, joiner } = this.#deps.machine.holder!
    const kept = isGranted(phase) && (id === owner || id === joiner)
    for (const { name = '', fd } of items) {
      if (kept && name !== '') this.#ofSuccessor.put(namedEntry(name, fd))
      else fd.close()
    }
  }

  /** The successor is released, or its handoff has not begun: its descriptors are not needed. */
  forget(): void {
    this.#ofSuccessor.close()
  }

  /** Sends a new Unix listener to the incumbent, which removes its path if this process dies. */
  #reportPath(entry: Entry): void {
    if (entry.role !== 'listener' || entry.spec?.kind !== 'unix') return
    this.#send([entryItem(entry)], error =>
      this.#deps.settings.logger.debug(
        { err: error, listener: entry.name },
        'the previous version did not hear of this path: it does not remove it if this process dies',
      ),
    )
  }

  /** Borrows the items for this call only. */
  #send(items: readonly BundleItem[], failed: (error: unknown) => void): void {
    const { joined, settings } = this.#deps
    if (joined.link === undefined || items.length === 0) return
    const shared = items.map(item => ({ ...item, fd: item.fd.share() }))
    joined.link
      .sendBundle(shared, settings.timeout)
      .catch(failed)
      .finally(() => closeAll(shared.map(({ fd }) => fd)))
  }

  /** Closes the descriptor if it rejects: then another process serves, or the incumbent is stuck. */
  async #giveToIncumbent(entry: Entry): Promise<void> {
    const { joined, machine, settings, shutdown } = this.#deps
    const { name, fd } = entry
    const over = () => shutdown.over || machine.member.link === 'local' || !accepts(machine.phase)
    try {
      await joined.link?.sendBundle([entryItem(entry)], settings.timeout)
    } catch (error) {
      // If the incumbent is dead, this process serves for good.
      if (peerLeft(error)) await machine.changes.until(over, settings.timeout)
      if (machine.member.link !== 'local') {
        fd.close()
        throw peerLeft(error) ? entryFencedError(name) : error
      }
    }
    // The incumbent may have taken over before it got the descriptor.
    if (machine.member.link === 'local' || (accepts(machine.phase) && !machine.sealed)) return
    fd.close()
    throw entryFencedError(name)
  }
}
