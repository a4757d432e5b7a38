import { afterReading, type Limit } from '../../base/after-reading.js'
import { CountByKey } from '../../base/count-by-key.js'
import { LONGEST_MS } from '../../base/duration.js'
import { jsonObject } from '../../base/json.js'
import { FdbError } from '../../errors.js'
import { namedEntry } from '../../holder/entry.js'
import { MAX_ENTRIES, type Registry, tooMany } from '../../holder/registry.js'
import { closeOnThrow, type ForeignFds, inspectOne, type OwnedFd } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import {
  type ClaimOrder,
  type ClaimResult,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorsOfProcess,
  type DescriptorUser,
  type HeldDescriptor,
  serviceOfName,
} from '../../operator/held-descriptors.js'
import { type DeathWatch, pidOf, refuseNoPidfd, watchDeathDirectly } from '../../os/liveness.js'
import { ChangeNotifier } from '../../wire/pending.js'
import { serviceLimitError } from '../policy/policy.js'
import { formatEntryKey, parseEntryKey } from './entry-key.js'
import { ProcessClaims } from './process-claims.js'
import type { SoleCopy } from './sole-copy.js'

interface StoredDescriptor extends DescriptorRecord {
  /** The end of the lease. A claim that has come in time while this process was stopped is read first. */
  readonly limit: Limit | undefined
  /** Watches the process with which the lease ends. */
  readonly watch: DeathWatch | null
  readonly whilePid: number | null
  claimedBy: DescriptorUser | null
}

/** Why a descriptor or a claim ended without a request. */
export type EndReason =
  | 'a descriptor was removed: its time has passed'
  | 'a descriptor was removed: its process has ended'
  | 'a claim has ended with its process'

/**
 * Descriptors of any type that a daemon holds for other processes, by name: forever, for a time, or as long as a process lives. The descriptors
 * and the pidfds of those processes are entries of the daemon's registry, so that its upgrade passes them on.
 */
export class DescriptorStore implements DescriptorHolder, Disposable {
  readonly #registry: Registry
  readonly #onEnd: (what: EndReason, name: string, pid: number | null) => void
  readonly #held = new Map<string, StoredDescriptor>()
  readonly #claims: ProcessClaims
  /** Number of descriptors by service. */
  readonly #sizes = new CountByKey<string | null>()
  readonly #isSettled: () => boolean
  readonly #changes = new ChangeNotifier()

  /**
   * `settled` returns whether no daemon is about to take over. `onEnd` is called when a descriptor or a claim ends without a request.
   */
  constructor(
    registry: Registry,
    settled = () => true,
    onEnd: (reason: EndReason, name: string, pid: number | null) => void = () => {},
  ) {
    this.#registry = registry
    this.#isSettled = settled
    this.#onEnd = onEnd
    this.#claims = new ProcessClaims(registry, (name, pid) => {
      onEnd('a claim has ended with its process', name, pid)
      this.#changes.notify()
    })
  }

  get size(): number {
    return this.#held.size
  }

  /** Lists all descriptors of the store, because no other process has them. */
  get soleCopies(): SoleCopy[] {
    if (this.#held.size === 0) return []
    return [{ service: '', listeners: [], held: [...this.#held.keys()], stateBytes: 0, stateFile: null }]
  }

  /** Takes over the previous daemon's descriptors in this registry. Leases and claims of processes continue; claims of connections have ended. `foreignFds` returns what counts the descriptors of another user. */
  takeOver(foreignFds: (uid: number) => ForeignFds | null = () => null): void {
    for (const { name: key, note } of this.#registry.named) {
      const entry = parseEntryKey(key)
      const record = entry?.of === 'fd' ? parseRecord(note) : null
      if (entry === null || record === null || this.#held.has(entry.name)) continue
      const { name } = entry
      for (const each of [key, lifetimeKey(name)])
        if (this.#registry.get(each)) this.#registry.wanted.add(each)
      this.#registry.get(key)?.fd.countAs(foreignFds(record.uid))
      this.#hold(name, record)
    }
    this.#claims.takeOver(name => this.#held.has(name))
  }

  list(): HeldDescriptor[] {
    return [...this.#held]
      .map(([name, held]) => this.#describe(name, held))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** Returns the claims of living processes on the descriptors for which `shows` is true. */
  usersOf(shows: (name: string) => boolean): DescriptorsOfProcess[] {
    const programs = new Map<number, DescriptorsOfProcess>()
    for (const name of [...this.#held.keys()].filter(shows).sort())
      for (const { pid, since } of this.#claims.of(name)) {
        const known = programs.get(pid) ?? { pid, since, names: [] }
        programs.set(pid, { ...known, names: [...known.names, name] })
      }
    return [...programs.values()]
  }

  put({ name, fd, lifetime, ms, replace, by, most = MAX_ENTRIES }: DescriptorOrder): void {
    let changed = false
    try {
      this.#refuseUnsettled()
      if (!this.#held.has(name)) this.#refuseMore(name, most)
      else if (replace) this.#otherClaims(name, by, null)
      else
        throw new FdbError(
          'ERR_FDB_FD_TAKEN',
          `the daemon already holds a descriptor "${name}": choose another name, or replace it`,
        )
      if (lifetime !== null) refuseNoPidfd(lifetime)
      changed = true
      this.#forget(name)
      const now = Date.now()
      const until = ms === null ? null : now + Math.min(ms, LONGEST_MS)
      const record = { pid: by.pid, uid: by.uid, putAt: now, until }
      this.#enter(descriptorKey(name), JSON.stringify(record), fd)
      if (lifetime !== null) this.#enter(lifetimeKey(name), '', lifetime)
      this.#hold(name, record)
    } catch (error) {
      if (changed) this.#forget(name)
      fd.close()
      lifetime?.close()
      throw error
    } finally {
      if (changed) this.#changes.notify()
    }
  }

  claim({ name, by, shared, claimant }: ClaimOrder): ClaimResult {
    return closeOnThrow([claimant], () => {
      // The next daemon gets the claims of processes, so that none may be added during its takeover.
      if (claimant !== null) this.#refuseUnsettled()
      const held = this.#getOrThrow(name)
      const others = this.#otherClaims(name, by, claimant)
      if (!shared && others[0] !== undefined)
        throw claimedError(name, others[0].pid, 'too, and an exclusive claim needs it alone')
      const fd = this.#registry.get(descriptorKey(name))!.fd.dup()
      closeOnThrow([fd], () => {
        if (claimant !== null) this.#claims.add(name, claimant, { exclusive: !shared, uid: by.uid })
        else if (!shared) held.claimedBy = by
      })
      if (claimant !== null || !shared) this.#changes.notify()
      return { fd, others: others.length }
    })
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    const held = this.#getOrThrow(name)
    if (claimant !== null) {
      this.#refuseUnsettled()
      if (this.#claims.release(name, claimant)) this.#changes.notify()
      return
    }
    if (held.claimedBy !== by) {
      this.#otherClaims(name, by, null)
      return
    }
    held.claimedBy = null
    this.#changes.notify()
  }

  remove(name: string): void {
    this.#refuseUnsettled()
    this.#getOrThrow(name)
    this.#forget(name)
    this.#changes.notify()
  }

  /** Removes a descriptor whose lease has ended, even during the daemon's own handoff. */
  end(name: string, what: EndReason): void {
    const { whilePid } = this.#held.get(name)!
    this.#forget(name)
    this.#onEnd(what, name, whilePid)
    this.#changes.notify()
  }

  /** Returns the number of descriptors and claims of a user, without the descriptor `except`. */
  countOf(user: number, except?: string): number {
    const held = [...this.#held].filter(([name, { uid }]) => uid === user && name !== except)
    return held.length + this.#claims.countOf(user)
  }

  hasClaim(by: DescriptorUser): boolean {
    return [...this.#held.values()].some(({ claimedBy }) => claimedBy === by)
  }

  operatorLeft(by: DescriptorUser): void {
    const claimed = [...this.#held.values()].filter(({ claimedBy }) => claimedBy === by)
    for (const held of claimed) held.claimedBy = null
    if (claimed.length > 0) this.#changes.notify()
  }

  watch(changed: () => void): () => void {
    return this.#changes.watch(changed)
  }

  /** Ends all leases and claims in this process; the registry keeps its entries. */
  [Symbol.dispose](): void {
    for (const { limit, watch } of this.#held.values()) {
      limit?.clear()
      watch?.close()
    }
    this.#held.clear()
    this.#claims.close()
    this.#sizes.clear()
  }

  /** Throws ERR_FDB_BUSY while another daemon is about to take over. */
  #refuseUnsettled(): void {
    if (this.#isSettled()) return
    throw new FdbError('ERR_FDB_BUSY', 'the daemon is being upgraded: try again', { retryable: true })
  }

  #describe(name: string, { pid, putAt, until, whilePid, claimedBy }: StoredDescriptor): HeldDescriptor {
    const about = inspectOne(this.#registry.get(descriptorKey(name))!.fd)
    const users = this.#claims.of(name)
    return {
      name,
      type: about.type,
      address: about.type === 'socket' ? formatAddress(about) : null,
      inode: about.ino,
      pid,
      putAt: new Date(putAt).toISOString(),
      until: until === null ? null : new Date(until).toISOString(),
      whilePid,
      claimedBy: claimedBy?.pid ?? users.find(({ exclusive }) => exclusive)?.pid ?? null,
      users,
    }
  }

  #enter(key: string, note: string, fd: OwnedFd): void {
    this.#registry.wanted.add(key)
    this.#registry.put(namedEntry(key, fd, note))
  }

  /** Adds a descriptor and starts its lease. */
  #hold(name: string, record: DescriptorRecord): void {
    const lifetime = this.#registry.get(lifetimeKey(name))?.fd
    const onTimeout = () => this.end(name, 'a descriptor was removed: its time has passed')
    const onDeath = () => this.end(name, 'a descriptor was removed: its process has ended')
    const { until } = record
    this.#sizes.add(serviceOfName(name))
    this.#held.set(name, {
      ...record,
      limit: until === null ? undefined : afterReading(remainingMs(until), onTimeout, { unref: true }),
      watch: lifetime === undefined ? null : watchDeathDirectly(lifetime, onDeath),
      whilePid: lifetime === undefined ? null : pidOf(lifetime),
      claimedBy: null,
    })
  }

  #forget(name: string): void {
    const held = this.#held.get(name)
    held?.limit?.clear()
    held?.watch?.close()
    if (this.#held.delete(name)) this.#sizes.add(serviceOfName(name), -1)
    this.#claims.forget(name)
    for (const key of [descriptorKey(name), lifetimeKey(name)]) this.#registry.drop(key)
  }

  #refuseMore(name: string, most: number): void {
    if (this.#held.size >= MAX_ENTRIES) throw tooMany(name)
    const service = serviceOfName(name)
    if (this.#sizes.of(service) >= most) throw serviceLimitError(service ?? '', 'descriptors', most)
  }

  #getOrThrow(name: string): StoredDescriptor {
    const held = this.#held.get(name)
    if (held !== undefined) return held
    throw new FdbError(
      'ERR_FDB_FD_UNKNOWN',
      `the daemon holds no descriptor "${name}": fd-broker fd list shows those that it holds`,
    )
  }

  /** Returns the claims of other processes. Throws ERR_FDB_FD_CLAIMED if one of them is exclusive. */
  #otherClaims(name: string, by: DescriptorUser, claimant: OwnedFd | null): { readonly pid: number }[] {
    const { claimedBy } = this.#getOrThrow(name)
    if (claimedBy !== null && claimedBy !== by) throw claimedError(name, claimedBy.pid)
    const others = this.#claims.others(name, claimant)
    const exclusive = others.find(each => each.exclusive)
    if (exclusive !== undefined) throw claimedError(name, exclusive.pid)
    return others
  }
}

function claimedError(name: string, pid: number, how = 'for itself'): FdbError {
  return new FdbError(
    'ERR_FDB_FD_CLAIMED',
    `process ${pid} has claimed the descriptor "${name}" ${how}: try again when it has released it, or has ended`,
    { retryable: true },
  )
}

/** The note of a descriptor's registry entry, as JSON. */
interface DescriptorRecord {
  readonly pid: number
  /** The uid of the process that put it. */
  readonly uid: number
  /** Milliseconds since 1970. */
  readonly putAt: number
  /** End of the lease in milliseconds since 1970, or null. */
  readonly until: number | null
}

function descriptorKey(name: string): string {
  return formatEntryKey({ of: 'fd', name })
}

function lifetimeKey(name: string): string {
  return formatEntryKey({ of: 'lifetime', name })
}

/** Returns null for a record of a release that encodes it differently. */
function parseRecord(note: string): DescriptorRecord | null {
  const { pid = 0, uid = 0, putAt, until = null } = (jsonObject(note) ?? {}) as Partial<DescriptorRecord>
  return typeof putAt === 'number' ? { pid, uid, putAt, until } : null
}

/** Returns the remaining milliseconds of a lease. After the clock was set back they are cut to the longest delay of a timer. */
function remainingMs(until: number): number {
  return Math.min(LONGEST_MS, Math.max(0, until - Date.now()))
}
