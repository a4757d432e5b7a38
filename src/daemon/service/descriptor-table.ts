import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { byRight, isServing } from '../../handoff/holder-reconnect.js'
import type { Returned } from '../../handoff/holder-state.js'
import type { Entry } from '../../holder/entry.js'
import type { Peer } from '../../holder/peer.js'
import { MAX_ENTRIES, Registry, tooMany } from '../../holder/registry.js'
import { discardListeners, FormerListeners, removePaths } from '../../holder/unix-paths.js'
import { closeAll, closeOnThrow, inspect, inspectOne } from '../../kernel/index.js'
import { ListenerGuard } from '../../listeners/index.js'
import type { BundleItem } from '../../wire/bundle.js'
import { type ServiceLimits, serviceLimitError } from '../policy/policy.js'

/** Limit of the descriptors without a name (segments, pidfds) that a member may send. */
const OTHERS = 1_000

/** Limit of the name of an entry. */
export const MOST_NAME_CHARACTERS = 256

type EntryKey = Pick<Entry, 'name' | 'role'>

export interface NamedLimits {
  readonly service: string
  readonly limits: ServiceLimits
}

/** The descriptors of one member that do not belong to the service (yet). */
interface MemberDescriptors {
  /** Received items whose Register or Back message has not arrived yet. */
  unclaimed: BundleItem[]
  /** Number of the first unclaimed items that were registered during a pause and are taken after it. */
  registered: number
  /** Entries that the member brought back to a restarted daemon, until it is decided which member serves; otherwise null. */
  brought: readonly Entry[] | null
  /** Entries registered by a member that does not serve for good yet: a joiner, or the serving member in probation. */
  readonly provisional: Map<string, Entry>
  /** Names that the member released while another member could still start to serve. */
  readonly releasedLate: Set<string>
  /** Names of descriptors of its successor, which the member gets because it serves again. */
  readonly owed: Set<string>
}

/**
 * Owns the descriptors that a daemon has for one service: those of the service, by name, and those of each member that do not belong to the service
 * yet. The latter become the service's when no member with another descriptor of the same name can take over again.
 */
export class DescriptorTable {
  /** The entries of the service, which the Offer passes to a successor. */
  readonly held: Registry
  readonly #guard: ListenerGuard
  readonly #rows = new Map<Peer, MemberDescriptors>()
  /** After a restart of the daemon: descriptors that a member, which may have left since then, had named in its probation. */
  readonly #late = new Map<string, Entry>()
  readonly #former = new FormerListeners()
  readonly #logger: Logger
  /** Entries of a member that has left before it was decided which member serves; see {@link keepBrought}. */
  #left: { readonly back: Returned; readonly entries: readonly Entry[] } | null = null

  constructor(logger: Logger) {
    this.#logger = logger
    this.#guard = new ListenerGuard(logger)
    this.held = new Registry(this.#guard)
  }

  /** Stores received descriptors until a message claims them. If too many are unclaimed, closes them all and throws. */
  arrive(peer: Peer, items: readonly BundleItem[]): void {
    const row = this.#row(peer)
    for (const item of items) row.unclaimed.push(item)
    const [got, limit] = [row.unclaimed.length, MAX_ENTRIES + OTHERS]
    if (got <= limit) return
    closeItems(this.takeUnclaimed(peer))
    throw new FdbError(
      'ERR_FDB_FDS_MANY',
      `process ${peer.pid} sent ${got} descriptors without a message that claims them (limit ${limit}): they are closed`,
    )
  }

  /** Removes and returns the unclaimed items; the caller owns them. */
  takeUnclaimed(peer: Peer): BundleItem[] {
    const row = this.#rows.get(peer)
    const items = row?.unclaimed ?? []
    if (row !== undefined) Object.assign(row, { unclaimed: [], registered: 0 })
    return items
  }

  /** Marks all unclaimed items as registered, to be taken later. Returns their number. */
  markRegistered(peer: Peer): number {
    const row = this.#row(peer)
    row.registered = row.unclaimed.length
    return row.registered
  }

  /** Whether another user has or had members here: the daemon must not remove paths that such a user named. */
  get foreign(): boolean {
    return this.#former.keepPaths
  }

  set foreign(foreign: boolean) {
    this.#former.keepPaths = foreign
    this.#guard.keepsPaths = !foreign
  }

  /** Throws ERR_FDB_SERVICE_LIMIT if the entry would exceed the service's limits. `forGood`: it is for {@link hold}, otherwise for {@link holdProvisionally}. */
  demandRoom(peer: Peer, { name, role }: EntryKey, forGood: boolean, { service, limits }: NamedLimits): void {
    const size = forGood ? this.held.size : this.#row(peer).provisional.size
    // Counts only near the limit: otherwise registering many entries one by one would take quadratic time.
    if (size < Math.min(limits.descriptors, limits.listeners)) return
    const entries = forGood ? this.held.entries : this.#provisionalOf(peer)
    const others = entries.filter(entry => entry.name !== name)
    if (others.length >= limits.descriptors)
      throw serviceLimitError(service, 'descriptors', limits.descriptors)
    const listeners = others.filter(entry => entry.role === 'listener')
    if (role === 'listener' && listeners.length >= limits.listeners)
      throw serviceLimitError(service, 'listeners', limits.listeners)
  }

  /** The reason if a ready `peer` adds entries to those that it takes over, and has more than the service may have then; otherwise null. */
  refusal(peer: Peer, { service, limits }: NamedLimits): FdbError | null {
    const added = this.#provisionalOf(peer)
    const names = new Set(added.map(({ name }) => name))
    const kept = this.held.entries.filter(({ name }) => peer.adopted.has(name) && !names.has(name))
    const listeners = (entries: readonly Entry[]) => entries.filter(({ role }) => role === 'listener').length
    const more = listeners(added)
    if (more > 0 && more + listeners(kept) > limits.listeners)
      return serviceLimitError(service, 'listeners', limits.listeners)
    if (added.length > 0 && added.length + kept.length > limits.descriptors)
      return serviceLimitError(service, 'descriptors', limits.descriptors)
    return null
  }

  /** Adds an entry to the service; closes an earlier one of that name. Takes ownership of the descriptor, also if it throws. */
  hold(peer: Peer, entry: Entry): void {
    this.#noteUse(peer, entry)
    this.#put(entry)
    this.#former.removeUnused(this.held)
    peer.adopted.add(entry.name)
  }

  /** Stores an entry until this member serves for good. Takes ownership of the descriptor, also if it throws. */
  holdProvisionally(peer: Peer, entry: Entry): void {
    const { provisional } = this.#row(peer)
    if (provisional.size >= MAX_ENTRIES && !provisional.has(entry.name)) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    this.#noteUse(peer, entry)
    this.#discard([provisional.get(entry.name)])
    provisional.set(entry.name, entry)
  }

  /** The member uses a listener of the previous version, under any name, that its Ready has given up. Another socket of that name does not count. */
  #noteUse({ refused }: Peer, { fd }: Entry): void {
    if (refused.size === 0) return
    const { ino } = inspectOne(fd)
    for (const name of refused) {
      const present = this.held.get(name)
      if (present !== undefined && inspectOne(present.fd).ino === ino) refused.delete(name)
    }
  }

  /** The descriptors that `owner`, which is in its probation, has named, and those of {@link keepLate}: the next daemon must know them too. Borrowed. */
  undecided(owner: Peer | undefined): Entry[] {
    return [...this.#late.values(), ...this.#provisionalOf(owner).filter(({ role }) => role === 'named')]
  }

  /** Keeps descriptors that a member had named, until it is decided after a restart of the daemon which member serves. Owns them. */
  keepLate(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.#late.get(entry.name)?.fd.close()
      this.#late.set(entry.name, entry)
    }
  }

  /** All members are dead: the descriptors of {@link keepLate} become the service's. */
  #takeLate(): void {
    const late = [...this.#late.values()]
    this.#late.clear()
    this.#holdAll({ pid: 0 }, late)
  }

  /** The member has dropped the descriptor. `forGood`: no other member that needs it can start to serve. */
  release(peer: Peer, name: string, forGood: boolean): void {
    peer.adopted.delete(name)
    const provisional = this.#rows.get(peer)?.provisional
    this.#discard([provisional?.get(name)])
    if (provisional?.delete(name)) this.held.changed()
    this.#forgetRegistered(peer, name)
    if (forGood) this.#drop(name)
    else this.#releaseLater(this.#row(peer).releasedLate, name)
  }

  #releaseLater(names: Set<string>, name: string): void {
    // No entry has a longer name, and there are no more entries.
    if (name.length <= MOST_NAME_CHARACTERS && names.size < MAX_ENTRIES) names.add(name)
  }

  /** Closes the entries that the serving member released during a handoff, as no other member needs them any more. Call it when no handoff is running. */
  releaseLate(owner: Peer | undefined): void {
    const late = owner === undefined ? undefined : this.#rows.get(owner)?.releasedLate
    for (const name of late ?? []) if (!owner!.adopted.has(name)) this.#drop(name)
    for (const row of this.#rows.values()) row.releasedLate.clear()
  }

  /** Takes the entries of a member that returned to a restarted daemon; they replace those that it brought before. */
  setBrought(peer: Peer, entries: readonly Entry[]): void {
    const row = this.#row(peer)
    closeItems(row.brought ?? [])
    row.brought = entries.slice(0, MAX_ENTRIES)
    closeItems(entries.slice(MAX_ENTRIES))
    peer.adopted = new Set(row.brought.map(({ name }) => name))
  }

  /**
   * The member, which has returned to a restarted daemon, has left before all others were back: keeps what it brought, unless another one that has left
   * had more right to serve.
   */
  keepBrought(peer: Peer, back: Returned): void {
    const row = this.#rows.get(peer)
    if (row === undefined || row.brought === null) return
    if (this.#left !== null && byRight(this.#left.back, back) <= 0) return
    closeItems(this.#left?.entries ?? [])
    this.#left = { back, entries: row.brought }
    row.brought = null
  }

  /** All members have left: makes the entries that {@link keepBrought} has kept the only ones of the service. Returns false if it has kept none. */
  adoptLeft(): boolean {
    const left = this.#left
    if (left === null) {
      this.#takeLate()
      return false
    }
    this.#left = null
    this.#adopt(isServing(left.back.role) ? left.entries : replaced(left.entries, this.#takeNamed()))
    return true
  }

  /** Returns the names of the listeners that the member `from` has brought, and `to` has not, under any name. */
  notBrought(from: Peer, to: Peer): string[] {
    const listenersOf = (peer: Peer) =>
      (this.#rows.get(peer)?.brought ?? []).filter(({ role }) => role === 'listener')
    const inodes = (entries: readonly Entry[]) => inspect(entries.map(({ fd }) => fd)).map(({ ino }) => ino)
    const [before, now] = [listenersOf(from), new Set(inodes(listenersOf(to)))]
    return inodes(before).flatMap((ino, i) => (now.has(ino) ? [] : [before[i]!.name]))
  }

  /**
   * Makes the entries that this member brought the only entries of the service. If it has not served itself, it takes over from a member that has left,
   * and gets that one's named descriptors by {@link takeOwed}.
   */
  adopt(peer: Peer | undefined, hasServed = true): void {
    if (peer === undefined) return
    const row = this.#row(peer)
    if (!hasServed) this.#owe(peer, row, this.#takeNamed())
    const brought = row.brought ?? []
    row.brought = null
    this.#adopt(brought)
  }

  #adopt(brought: readonly Entry[]): void {
    this.#closeLeft()
    const names = new Set(brought.map(({ name }) => name))
    this.held.together(() => {
      // Drops first: together with the new entries there may be more than the limit.
      for (const name of this.held.names) if (!names.has(name)) this.held.drop(name)
      for (const entry of brought) this.held.put(entry)
    })
  }

  /** Adds those entries of a returning serving member that the service lacks, up to its limits. Takes ownership of the descriptors. */
  complete(peer: Peer, entries: readonly Entry[], limited: NamedLimits): void {
    for (const entry of entries) {
      if (this.held.get(entry.name) !== undefined) {
        entry.fd.close()
        continue
      }
      try {
        closeOnThrow([entry.fd], () => this.demandRoom(peer, entry, true, limited))
        this.hold(peer, entry)
      } catch (err) {
        this.#logger.warn({ err, pid: peer.pid }, 'the daemon closed a descriptor of a returning member')
      }
    }
  }

  /** When no other member can take over again: makes the serving member's entries the service's, and closes those that it did not ask for. */
  settle(owner: Peer): void {
    if (this.#rows.get(owner)?.brought) this.adopt(owner)
    for (const row of this.#rows.values()) {
      closeItems(row.brought ?? [])
      row.brought = null
    }
    const entries = this.#takeProvisional(owner)
    for (const { name } of entries) owner.adopted.add(name)
    this.#holdAll(owner, entries, () => {
      // Drops first: together with the registered entries there may be more than the limit.
      for (const name of this.held.names) if (!owner.adopted.has(name)) this.#giveUp(name)
    })
  }

  /**
   * The member `to` serves again instead of its successor `from`: the descriptors other than listeners that `from` has registered become the
   * service's, as its changes of the state do. `to` gets them by {@link takeOwed}.
   */
  handBack(from: Peer, to: Peer): void {
    const provisional = this.#rows.get(from)?.provisional
    const named = this.#provisionalOf(from).filter(({ role }) => role === 'named')
    for (const { name } of named) provisional?.delete(name)
    this.#holdAll(from, named)
    const row = this.#row(to)
    const names = new Set(named.map(({ name }) => name))
    const isOwed = (entry: Entry) => names.has(entry.name) || isLacking(entry, row.brought ?? [])
    // After a restart of the daemon `to` has brought its own descriptors, and the service has those of `from`.
    if (row.brought !== null)
      this.#owe(
        to,
        row,
        this.held.named.filter(isOwed).map(entry => ({ ...entry, fd: entry.fd.share() })),
      )
    for (const name of names) {
      to.adopted.add(name)
      row.owed.add(name)
    }
  }

  /** Adds these descriptors to those that the member has brought, which become the service's. Owns them. */
  #owe(peer: Peer, row: MemberDescriptors, entries: readonly Entry[]): void {
    const all = replaced(row.brought ?? [], entries)
    row.brought = all.slice(0, MAX_ENTRIES)
    closeItems(all.slice(MAX_ENTRIES))
    for (const { name } of entries) {
      peer.adopted.add(name)
      row.owed.add(name)
    }
  }

  /** Returns the descriptors that {@link handBack} owes the member, which it has then got. Borrowed. */
  takeOwed(peer: Peer): Entry[] {
    const owed = this.#rows.get(peer)?.owed
    const entries = this.held.entries.filter(({ name }) => owed?.has(name))
    owed?.clear()
    return entries
  }

  /** Adds the registered entries of a member that died between its Commit and its Serving, if no other can take over again: it may have accepted on these listeners. */
  inherit(peer: Peer | undefined): void {
    if (peer === undefined) return
    const entries = this.#takeProvisional(peer)
    const lacking = new Set(entries.filter(({ name }) => this.held.get(name) === undefined))
    closeItems(entries.filter(entry => !lacking.has(entry)))
    this.#holdAll(peer, lacking)
  }

  /** Returns the service's entries as this member sees them. In probation its own entry hides the one of the same name that is kept for the standby. */
  entriesFor(peer: Peer | undefined): Entry[] {
    const own = this.#provisionalOf(peer)
    const names = new Set(own.map(({ name }) => name))
    return [...this.held.entries.filter(({ name }) => !names.has(name)), ...own]
  }

  /** Closes the provisional entries of all members except `peers`: the others can no longer start to serve. */
  keepProvisional(peers: readonly (Peer | undefined)[]): void {
    for (const peer of this.#rows.keys())
      if (!peers.includes(peer)) this.#discard(this.#takeProvisional(peer))
  }

  /** Closes everything of a member that has left for good. */
  forget(peer: Peer): void {
    closeItems(this.takeUnclaimed(peer))
    this.#discard(this.#takeProvisional(peer))
    closeItems(this.#rows.get(peer)?.brought ?? [])
    this.#rows.delete(peer)
  }

  /** Closes the listeners of the service, and removes their paths. Living members keep the listeners that they have. */
  closeListeners(): void {
    const listeners = this.held.entries.filter(({ role }) => role === 'listener')
    this.held.together(() => {
      for (const { name } of listeners) this.#drop(name)
    })
  }

  /** Removes the paths of the service's Unix sockets, because the service ends. */
  removePaths(): void {
    if (!this.#former.keepPaths) removePaths(this.held)
  }

  /** Closes everything; living members keep the listeners that they created. */
  close(): void {
    for (const peer of [...this.#rows.keys()]) {
      closeItems(this.#takeProvisional(peer))
      this.forget(peer)
    }
    this.#closeLeft()
    this.held.close()
  }

  #closeLeft(): void {
    closeItems([...(this.#left?.entries ?? []), ...this.#late.values()])
    this.#left = null
    this.#late.clear()
  }

  /** Removes and returns the named descriptors of a member that had served and has left; the caller owns them. */
  #takeNamed(): Entry[] {
    const isNamed = ({ role }: Entry) => role === 'named'
    const late = [...this.#late.values()]
    this.#late.clear()
    const left = this.#left
    if (left === null || !isServing(left.back.role)) return late
    this.#left = { ...left, entries: left.entries.filter(entry => !isNamed(entry)) }
    return replaced(late, left.entries.filter(isNamed))
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
      owed: new Set(),
    }
    this.#rows.set(peer, row)
    return row
  }

  /** Closes a registered item that the service would have taken after the pause. */
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

  /** Removes and returns the provisional entries; the caller owns them. */
  #takeProvisional(peer: Peer): Entry[] {
    const entries = this.#provisionalOf(peer)
    this.#rows.get(peer)?.provisional.clear()
    return entries
  }

  /** Closes registered entries that the service does not take, and removes the paths that the member created for them. */
  #discard(entries: readonly (Entry | undefined)[]): void {
    const registered = entries.filter(entry => entry !== undefined)
    if (this.#former.keepPaths) closeItems(registered)
    else discardListeners(registered, this.held)
  }

  /** Adds entries to the service. The member can no longer be notified of a failure, so that refused entries are closed and logged. */
  #holdAll({ pid }: Pick<Peer, 'pid'>, entries: Iterable<Entry>, before: () => void = () => {}): void {
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
    this.#logger.error(
      facts,
      'the daemon closed registered descriptors of a member: the service has too many',
    )
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

/** Returns `newer`, and those of the entries that have other names; closes the rest. */
function replaced(entries: readonly Entry[], newer: readonly Entry[]): Entry[] {
  const names = new Set(newer.map(({ name }) => name))
  closeItems(entries.filter(({ name }) => names.has(name)))
  return [...newer, ...entries.filter(({ name }) => !names.has(name))]
}

/** Whether none of the entries is the same object by the same name. */
function isLacking({ fd, name }: Entry, entries: readonly Entry[]): boolean {
  const other = entries.find(each => each.name === name)
  return other === undefined || inspectOne(other.fd).ino !== inspectOne(fd).ino
}

function closeItems(items: readonly { readonly fd: BundleItem['fd'] }[]): void {
  closeAll(items.map(({ fd }) => fd))
}
