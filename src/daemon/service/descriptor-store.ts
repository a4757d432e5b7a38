import { LONGEST_MS } from '../../base/duration.js'
import { FdbError } from '../../errors.js'
import { MAX_ENTRIES, type Registry, tooMany } from '../../holder/registry.js'
import { inspectOne, type OwnedFd } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import {
  type ClaimOrder,
  type ClaimResult,
  type DescriptorHolder,
  type DescriptorOrder,
  type DescriptorsOfProcess,
  type DescriptorUser,
  type HeldDescriptor,
  serviceIn,
} from '../../operator/held-descriptors.js'
import { type DeathWatch, pidOf, refuseNoPidfd, watchDeathDirectly } from '../../os/liveness.js'
import { overLimit } from '../policy/policy.js'
import type { HeldAlone } from './kept-state.js'
import { ProcessClaims } from './process-claims.js'

interface StoredDescriptor extends DescriptorRecord {
  readonly timer: NodeJS.Timeout | undefined
  /** Watches the process whose end ends it. */
  readonly watch: DeathWatch | null
  readonly whilePid: number | null
  claimedBy: DescriptorUser | null
}

/** The reason why a descriptor was closed without a request. */
export type EndReason =
  | 'the time of a descriptor is over'
  | 'the process of a descriptor has ended'
  | 'a claimant has ended'

/**
 * Descriptors of any kind that a daemon holds for other processes, by name: for good, for a time, or as long as a process lives. They, and
 * the pidfds of those processes, are entries of a registry and share its fate.
 */
export class DescriptorStore implements DescriptorHolder, Disposable {
  readonly #registry: Registry
  readonly #wanted: Set<string>
  readonly #onEnd: (what: EndReason, name: string, pid: number | null) => void
  readonly #held = new Map<string, StoredDescriptor>()
  readonly #claims: ProcessClaims
  /** How many, by service. */
  readonly #sizes = new Map<string | null, number>()
  readonly #isSettled: () => boolean
  readonly #watching = new Set<() => void>()

  /** `wanted`: names that stay for the next process. `settled`: none is about to take over. `over`: hears of changes without a request. */
  constructor(
    registry: Registry,
    wanted: Set<string> = new Set(),
    settled = () => true,
    over: (what: EndReason, name: string, pid: number | null) => void = () => {},
  ) {
    this.#registry = registry
    this.#wanted = wanted
    this.#isSettled = settled
    this.#onEnd = over
    this.#claims = new ProcessClaims(registry, wanted, (name, pid) => {
      over('a claimant has ended', name, pid)
      this.#notifyWatchers()
    })
  }

  get size(): number {
    return this.#held.size
  }

  /** All of them: no other process has them. */
  get heldAlone(): HeldAlone[] {
    if (this.#held.size === 0) return []
    return [{ service: '', listeners: [], held: [...this.#held.keys()], stateBytes: 0, stateFile: null }]
  }

  /** Takes over the former process's descriptors in this registry. Leases and claims of processes go on, those of connections ended. */
  takeOver(): void {
    for (const { name: key, spec } of this.#registry.entries) {
      const name = nameOf(key)
      const noted = name === null ? null : parseRecord(spec)
      if (name === null || noted === null || this.#held.has(name)) continue
      for (const each of [key, lifetimeOf(name)]) if (this.#registry.get(each)) this.#wanted.add(each)
      this.#hold(name, noted)
    }
    this.#claims.takeOver(name => this.#held.has(name))
  }

  list(): HeldDescriptor[] {
    return [...this.#held]
      .map(([name, held]) => this.#describe(name, held))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** Claims of living processes, among those that may be shown. */
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
    let begun = false
    try {
      this.#refuseUnsettled()
      if (!this.#held.has(name)) this.#refuseMore(name, most)
      else if (replace) this.#otherClaims(name, by, null)
      else
        throw new FdbError(
          'ERR_FDB_FD_TAKEN',
          `a descriptor "${name}" is held already: choose another name, or have it replaced`,
        )
      if (lifetime !== null) refuseNoPidfd(lifetime)
      begun = true
      this.#forget(name)
      const now = Date.now()
      const until = ms === null ? null : now + Math.min(ms, LONGEST_MS)
      const noted = { pid: by.pid, uid: by.uid, putAt: now, until }
      this.#enter(keyOf(name), JSON.stringify(noted), fd)
      if (lifetime !== null) this.#enter(lifetimeOf(name), '', lifetime)
      this.#hold(name, noted)
    } catch (error) {
      if (begun) this.#forget(name)
      fd.close()
      lifetime?.close()
      throw error
    } finally {
      if (begun) this.#notifyWatchers()
    }
  }

  claim({ name, by, shared, claimant }: ClaimOrder): ClaimResult {
    try {
      // A claim for the life of a process is handed over.
      if (claimant !== null) this.#refuseUnsettled()
      const held = this.#getOrThrow(name)
      const others = this.#otherClaims(name, by, claimant)
      if (!shared && others[0] !== undefined) throw claimed(name, others[0].pid)
      const fd = this.#registry.get(keyOf(name))!.fd.dup()
      try {
        if (claimant !== null) this.#claims.add(name, claimant, { exclusive: !shared, uid: by.uid })
        else if (!shared) held.claimedBy = by
      } catch (error) {
        fd.close()
        throw error
      }
      if (claimant !== null || !shared) this.#notifyWatchers()
      return { fd, others: others.length }
    } catch (error) {
      claimant?.close()
      throw error
    }
  }

  release(name: string, by: DescriptorUser, claimant: OwnedFd | null): void {
    const held = this.#getOrThrow(name)
    if (claimant !== null) {
      this.#refuseUnsettled()
      if (this.#claims.release(name, claimant)) this.#notifyWatchers()
      return
    }
    this.#otherClaims(name, by, null)
    if (held.claimedBy === null) return
    held.claimedBy = null
    this.#notifyWatchers()
  }

  remove(name: string): void {
    this.#refuseUnsettled()
    this.#getOrThrow(name)
    this.#forget(name)
    this.#notifyWatchers()
  }

  /** A descriptor has ended by itself: also while another process is about to go on with it. */
  end(name: string, what: EndReason): void {
    const { whilePid } = this.#held.get(name)!
    this.#forget(name)
    this.#onEnd(what, name, whilePid)
    this.#notifyWatchers()
  }

  countOf(user: number): number {
    return [...this.#held.values()].filter(({ uid }) => uid === user).length + this.#claims.countOf(user)
  }

  operatorLeft(by: DescriptorUser): void {
    const claimed = [...this.#held.values()].filter(({ claimedBy }) => claimedBy === by)
    for (const held of claimed) held.claimedBy = null
    if (claimed.length > 0) this.#notifyWatchers()
  }

  watch(changed: () => void): () => void {
    this.#watching.add(changed)
    return () => this.#watching.delete(changed)
  }

  /** The registry stays as it is. */
  [Symbol.dispose](): void {
    for (const { timer, watch } of this.#held.values()) {
      clearTimeout(timer)
      watch?.close()
    }
    this.#held.clear()
    this.#claims.close()
    this.#sizes.clear()
    this.#watching.clear()
  }

  /** Throws ERR_FDB_BUSY. */
  #refuseUnsettled(): void {
    if (this.#isSettled()) return
    throw new FdbError('ERR_FDB_BUSY', 'the daemon is being upgraded: try again', { retryable: true })
  }

  #describe(name: string, { pid, putAt, until, whilePid, claimedBy }: StoredDescriptor): HeldDescriptor {
    const about = inspectOne(this.#registry.get(keyOf(name))!.fd)
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

  #enter(key: string, spec: string, fd: OwnedFd): void {
    this.#wanted.add(key)
    this.#registry.put({ name: key, role: 'named', spec, fd })
  }

  /** Its lease runs from now on. */
  #hold(name: string, noted: DescriptorRecord): void {
    const lifetime = this.#registry.get(lifetimeOf(name))?.fd
    const late = () => this.end(name, 'the time of a descriptor is over')
    const gone = () => this.end(name, 'the process of a descriptor has ended')
    const { until } = noted
    this.#resize(name, 1)
    this.#held.set(name, {
      ...noted,
      timer: until === null ? undefined : setTimeout(late, remainingMs(until)).unref(),
      watch: lifetime === undefined ? null : watchDeathDirectly(lifetime, gone),
      whilePid: lifetime === undefined ? null : pidOf(lifetime),
      claimedBy: null,
    })
  }

  #forget(name: string): void {
    const held = this.#held.get(name)
    clearTimeout(held?.timer)
    held?.watch?.close()
    if (this.#held.delete(name)) this.#resize(name, -1)
    this.#claims.forget(name)
    for (const key of [keyOf(name), lifetimeOf(name)]) {
      this.#wanted.delete(key)
      this.#registry.drop(key)
    }
  }

  #refuseMore(name: string, most: number): void {
    if (this.#held.size >= MAX_ENTRIES) throw tooMany(name)
    const service = serviceIn(name)
    if ((this.#sizes.get(service) ?? 0) >= most) throw overLimit(service ?? '', 'descriptors', most)
  }

  #resize(name: string, by: number): void {
    const service = serviceIn(name)
    const size = (this.#sizes.get(service) ?? 0) + by
    if (size > 0) this.#sizes.set(service, size)
    else this.#sizes.delete(service)
  }

  #getOrThrow(name: string): StoredDescriptor {
    const held = this.#held.get(name)
    if (held !== undefined) return held
    throw new FdbError(
      'ERR_FDB_FD_UNKNOWN',
      `no descriptor "${name}" is held: fd-broker fd list shows which are`,
    )
  }

  /** The claims of other processes. Throws if another has claimed it exclusively. */
  #otherClaims(name: string, by: DescriptorUser, claimant: OwnedFd | null): { readonly pid: number }[] {
    const { claimedBy } = this.#getOrThrow(name)
    if (claimedBy !== null && claimedBy !== by) throw claimed(name, claimedBy.pid)
    const others = this.#claims.others(name, claimant)
    const exclusive = others.find(each => each.exclusive)
    if (exclusive !== undefined) throw claimed(name, exclusive.pid)
    return others
  }

  #notifyWatchers(): void {
    for (const changed of [...this.#watching]) changed()
  }
}

function claimed(name: string, pid: number): FdbError {
  return new FdbError(
    'ERR_FDB_FD_CLAIMED',
    `process ${pid} has claimed the descriptor "${name}" for itself: try again when it has released it, or has ended`,
    { retryable: true },
  )
}

/** Facts in the registry, beside the descriptor. */
interface DescriptorRecord {
  readonly pid: number
  /** The uid of the process that put it. */
  readonly uid: number
  /** Milliseconds since 1970. */
  readonly putAt: number
  readonly until: number | null
}

/** Two parts: what a service has, beside this in the same registry, has three. */
function keyOf(name: string): string {
  return `fd/${encodeURIComponent(name)}`
}

function lifetimeOf(name: string): string {
  return `lifetime/${encodeURIComponent(name)}`
}

function nameOf(key: string): string | null {
  const [kind, name, more] = key.split('/')
  return kind === 'fd' && name !== undefined && more === undefined ? decodeURIComponent(name) : null
}

/** Null: of a release that says it otherwise. */
function parseRecord(spec: string): DescriptorRecord | null {
  try {
    const { pid = 0, uid = 0, putAt, until = null } = JSON.parse(spec) as Partial<DescriptorRecord>
    return typeof putAt === 'number' ? { pid, uid, putAt, until } : null
  } catch {
    return null
  }
}

/** Milliseconds. No lease is longer: where it seems so the clock was set back, and a timer of more ends at once. */
function remainingMs(until: number): number {
  return Math.min(LONGEST_MS, Math.max(0, until - Date.now()))
}
