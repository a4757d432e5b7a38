import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Peer } from '../../holder/peer.js'
import { type Entry, MAX_ENTRIES, Registry, tooMany } from '../../holder/registry.js'
import { discardListeners, FormerListeners, removePaths } from '../../holder/unix-paths.js'
import { closeAll } from '../../kernel/index.js'
import type { BundleItem } from '../../wire/bundle.js'
import { overLimit, type ServiceLimits } from '../policy/policy.js'

/** Descriptors that a member may send beside listeners: segments, pidfds. */
const OTHERS = 1_000

type EntryKey = Pick<Entry, 'name' | 'role'>

export interface ServiceLimitsOf {
  readonly service: string
  readonly limits: ServiceLimits
}

/** The entries of one member that are not the service's, by their stage. */
interface MemberDescriptors {
  /** Items of which neither Register nor Back has said yet what for. */
  unclaimed: BundleItem[]
  /** The number of entries that were registered, and are taken later. */
  registered: number
  /** Entries that a member brought back to a restarted daemon, until it is settled which member serves; null: none. */
  brought: readonly Entry[] | null
  /** Registered by one that does not serve for good yet: a joiner, and who serves in probation. */
  readonly provisional: Map<string, Entry>
  /** Names that it dropped while another could come to serve. */
  readonly releasedLate: Set<string>
}

/**
 * The descriptors that a daemon has for one service: the service's, by name, and those of each member that are not the service's, or not yet.
 * They become so when no member with another of the name can come back. Owns all.
 */
export class DescriptorTable {
  /** The service's entries, which a successor is offered. */
  readonly held = new Registry()
  readonly #rows = new Map<Peer, MemberDescriptors>()
  readonly #former = new FormerListeners()
  readonly #logger: Logger

  constructor(logger: Logger) {
    this.#logger = logger
  }

  /** Takes what a member sends. When too much has come that nothing was said of, all of that is closed, and it throws. */
  arrive(peer: Peer, items: readonly BundleItem[]): void {
    const row = this.#row(peer)
    for (const item of items) row.unclaimed.push(item)
    const [got, limit] = [row.unclaimed.length, MAX_ENTRIES + OTHERS]
    if (got <= limit) return
    closeItems(this.takeArrived(peer))
    throw new FdbError(
      'ERR_FDB_FDS_MANY',
      `process ${peer.pid} sent ${got} descriptors and did not say what for (limit ${limit}): they are closed`,
    )
  }

  /** The caller owns them. */
  takeArrived(peer: Peer): BundleItem[] {
    const row = this.#rows.get(peer)
    const items = row?.unclaimed ?? []
    if (row !== undefined) Object.assign(row, { arrived: [], registered: 0 })
    return items
  }

  /** The member has said Register of all that has arrived, and it cannot be taken yet. */
  markRegistered(peer: Peer): void {
    const row = this.#row(peer)
    row.registered = row.unclaimed.length
  }

  /** Another user has, or had, members here: what that user named is not the daemon's to remove. */
  get foreign(): boolean {
    return this.#former.keepPaths
  }

  set foreign(foreign: boolean) {
    this.#former.keepPaths = foreign
  }

  /** Throws ERR_FDB_SERVICE_LIMIT where the service would have more than it may. `forGood`: by {@link hold}, else provisionally. */
  demandRoom(
    peer: Peer,
    { name, role }: EntryKey,
    forGood: boolean,
    { service, limits }: ServiceLimitsOf,
  ): void {
    const size = forGood ? this.held.size : this.#row(peer).provisional.size
    // Only then it is counted: who registers many one by one would have them all looked at each time.
    if (size < Math.min(limits.descriptors, limits.listeners)) return
    const entries = forGood ? this.held.entries : this.#provisionalOf(peer)
    const others = entries.filter(entry => entry.name !== name)
    if (others.length >= limits.descriptors) throw overLimit(service, 'descriptors', limits.descriptors)
    const listeners = others.filter(entry => entry.role === 'listener')
    if (role === 'listener' && listeners.length >= limits.listeners)
      throw overLimit(service, 'listeners', limits.listeners)
  }

  /** The service's from now on. Takes the descriptor, also when it throws; an earlier one of that name is closed. */
  hold(peer: Peer, entry: Entry): void {
    this.#put(entry)
    this.#former.removeUnused(this.held)
    peer.adopted.add(entry.name)
  }

  /** The service's when this member serves for good. Takes the descriptor, also when it throws. */
  holdProvisionally(peer: Peer, entry: Entry): void {
    const { provisional } = this.#row(peer)
    if (provisional.size >= MAX_ENTRIES && !provisional.has(entry.name)) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    this.#discard([provisional.get(entry.name)])
    provisional.set(entry.name, entry)
  }

  /** The member does not want it any more. `forGood`: no member that wants it can come back. */
  release(peer: Peer, name: string, forGood: boolean): void {
    peer.adopted.delete(name)
    const provisional = this.#rows.get(peer)?.provisional
    this.#discard([provisional?.get(name)])
    provisional?.delete(name)
    this.#forgetRegistered(peer, name)
    if (forGood) this.#drop(name)
    else this.#row(peer).releasedLate.add(name)
  }

  /** This member serves, and no handoff is under way: no other can want the entries that it dropped meanwhile. */
  releaseLate(owner: Peer | undefined): void {
    const late = owner === undefined ? undefined : this.#rows.get(owner)?.releasedLate
    for (const name of late ?? []) if (!owner!.adopted.has(name)) this.#drop(name)
    for (const row of this.#rows.values()) row.releasedLate.clear()
  }

  /** A member that came back to a restarted daemon has said what it holds. Takes it, in place of what it brought before. */
  setBrought(peer: Peer, entries: readonly Entry[]): void {
    const row = this.#row(peer)
    closeItems(row.brought ?? [])
    row.brought = entries.slice(0, MAX_ENTRIES)
    closeItems(entries.slice(MAX_ENTRIES))
    peer.adopted = new Set(row.brought.map(({ name }) => name))
  }

  /** The service has the entries that this member brought; no change if it brought none. */
  adopt(peer: Peer | undefined): void {
    if (peer === undefined) return
    const row = this.#rows.get(peer)
    const brought = row?.brought ?? []
    if (row !== undefined) row.brought = null
    const names = new Set(brought.map(({ name }) => name))
    this.held.together(() => {
      // First: with what it brought it may be more than a service may have.
      for (const name of this.held.names) if (!names.has(name)) this.held.drop(name)
      for (const entry of brought) this.held.put(entry)
    })
  }

  /** The serving member has come back with entries that are missing here. Takes the descriptors. */
  complete(peer: Peer, entries: readonly Entry[]): void {
    for (const entry of entries) {
      const lacking = this.held.get(entry.name) === undefined && this.held.size < MAX_ENTRIES
      if (lacking) this.hold(peer, entry)
      else entry.fd.close()
    }
  }

  /** No other member can come back: closes entries that the serving member did not ask for. */
  settle(owner: Peer): void {
    if (this.#rows.get(owner)?.brought) this.adopt(owner)
    for (const row of this.#rows.values()) {
      closeItems(row.brought ?? [])
      row.brought = null
    }
    const entries = this.#takeProvisional(owner)
    for (const { name } of entries) owner.adopted.add(name)
    this.#holdAll(owner, entries, () => {
      // First: with what it has registered it may be more than a service may have.
      for (const name of this.held.names) if (!owner.adopted.has(name)) this.#giveUp(name)
    })
  }

  /** The member died between its Commit and its Serving, and no other can come back: it may have accepted on its registered listeners. */
  inherit(peer: Peer | undefined): void {
    if (peer === undefined) return
    const entries = this.#takeProvisional(peer)
    const lacking = new Set(entries.filter(({ name }) => this.held.get(name) === undefined))
    closeItems(entries.filter(entry => !lacking.has(entry)))
    this.#holdAll(peer, lacking)
  }

  /** The service's descriptors as this member sees them: in probation its own of a name hides the standby's, kept for the way back. */
  seenBy(peer: Peer | undefined): Entry[] {
    const own = this.#provisionalOf(peer)
    const names = new Set(own.map(({ name }) => name))
    return [...this.held.entries.filter(({ name }) => !names.has(name)), ...own]
  }

  /** All others can come to serve no more: what they have registered is closed. */
  keepProvisional(peers: readonly (Peer | undefined)[]): void {
    for (const peer of this.#rows.keys())
      if (!peers.includes(peer)) this.#discard(this.#takeProvisional(peer))
  }

  /** The member is gone for good. */
  forget(peer: Peer): void {
    closeItems(this.takeArrived(peer))
    this.#discard(this.#takeProvisional(peer))
    closeItems(this.#rows.get(peer)?.brought ?? [])
    this.#rows.delete(peer)
  }

  /** The service ends here: so do the paths of its listeners. */
  removePaths(): void {
    if (!this.#former.keepPaths) removePaths(this.held)
  }

  /** Members that live go on with what they have made. */
  close(): void {
    for (const peer of [...this.#rows.keys()]) {
      closeItems(this.#takeProvisional(peer))
      this.forget(peer)
    }
    this.held.close()
  }

  #row(peer: Peer): MemberDescriptors {
    const known = this.#rows.get(peer)
    if (known !== undefined) return known
    const row: MemberDescriptors = {
      unclaimed: [],
      registered: 0,
      brought: null,
      provisional: new Map(),
      releasedLate: new Set(),
    }
    this.#rows.set(peer, row)
    return row
  }

  /** An entry that was to be taken later is not wanted any more. */
  #forgetRegistered(peer: Peer, name: string): void {
    const row = this.#rows.get(peer)
    if (row === undefined || row.registered === 0) return
    const registered = row.unclaimed.slice(0, row.registered)
    const kept = registered.filter(item => item.name !== name)
    closeItems(registered.filter(item => item.name === name))
    row.unclaimed = [...kept, ...row.unclaimed.slice(row.registered)]
    row.registered = kept.length
  }

  #provisionalOf(peer: Peer | undefined): Entry[] {
    const row = peer === undefined ? undefined : this.#rows.get(peer)
    return [...(row?.provisional.values() ?? [])]
  }

  /** The caller owns them. */
  #takeProvisional(peer: Peer): Entry[] {
    const entries = this.#provisionalOf(peer)
    this.#rows.get(peer)?.provisional.clear()
    return entries
  }

  /** Closes entries that a member has registered and the service does not get, and removes the paths that it has made. */
  #discard(entries: readonly (Entry | undefined)[]): void {
    const made = entries.filter(entry => entry !== undefined)
    if (this.#former.keepPaths) closeItems(made)
    else discardListeners(made, this.held)
  }

  /** Takes them. The member cannot be told any more: what is too many is closed, and logged. */
  #holdAll({ pid }: Peer, entries: Iterable<Entry>, before: () => void = () => {}): void {
    const failures: unknown[] = []
    this.held.together(() => {
      before()
      for (const entry of entries) {
        try {
          this.#put(entry)
        } catch (error) {
          failures.push(error)
        }
      }
      this.#former.removeUnused(this.held)
    })
    if (failures.length === 0) return
    const facts = { err: failures[0], pid, count: failures.length }
    this.#logger.error(facts, 'what a member has registered is too much, and is not kept for the next')
  }

  #put(entry: Entry): void {
    this.#former.remember(this.held, entry.name)
    this.held.put(entry)
  }

  #giveUp(name: string): void {
    this.#former.remember(this.held, name)
    this.held.drop(name)
  }

  #drop(name: string): void {
    this.#giveUp(name)
    this.#former.removeUnused(this.held)
  }
}

function closeItems(items: readonly { readonly fd: BundleItem['fd'] }[]): void {
  closeAll(items.map(({ fd }) => fd))
}
