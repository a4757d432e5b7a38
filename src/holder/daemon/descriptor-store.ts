import { LONGEST_MS } from '../../duration.js'
import { FdbError } from '../../errors.js'
import { inspectOne, type OwnedFd } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import type {
  DescriptorHolder,
  DescriptorOrder,
  DescriptorUser,
  HeldDescriptor,
} from '../../operator/held-descriptors.js'
import { type DeathWatch, pidOf, unwatchable, watchDeath } from '../../process/liveness.js'
import { MAX_ENTRIES, type Registry, tooMany } from '../registry.js'
import type { HeldAlone } from './held-alone.js'

/** What is said of one in the registry, beside its descriptor. */
interface Noted {
  readonly pid: number
  /** Milliseconds since 1970. */
  readonly putAt: number
  readonly until: number | null
}

interface Held extends Noted {
  readonly timer: NodeJS.Timeout | undefined
  /** Of the process with which it goes. */
  readonly watch: DeathWatch | null
  readonly whilePid: number | null
  claimedBy: DescriptorUser | null
}

/**
 * Descriptors of any kind that a daemon holds for whoever asks, by name: for good, for a time, or as long as a process lives. They, and the
 * pidfds of those processes, are entries of a registry: what becomes of that becomes of them.
 */
export class DescriptorStore implements DescriptorHolder, Disposable {
  readonly #registry: Registry
  readonly #wanted: Set<string>
  readonly #held = new Map<string, Held>()
  readonly #watching = new Set<() => void>()

  /** `wanted`: names of the registry that stay when another process goes on with it. */
  constructor(registry: Registry, wanted: Set<string> = new Set()) {
    this.#registry = registry
    this.#wanted = wanted
  }

  get size(): number {
    return this.#held.size
  }

  /** All of them: nobody else is asked for them. */
  get heldAlone(): HeldAlone[] {
    if (this.#held.size === 0) return []
    return [{ service: '', listeners: [], held: [...this.#held.keys()], stateBytes: 0, stateFile: null }]
  }

  /** What the process before has held, in this registry: its leases go on, its claims have ended with it. */
  takeOver(): void {
    for (const { name: key, spec } of this.#registry.entries) {
      const name = nameOf(key)
      const noted = name === null ? null : notedIn(spec)
      if (name === null || noted === null || this.#held.has(name)) continue
      for (const each of [key, lifetimeOf(name)]) if (this.#registry.get(each)) this.#wanted.add(each)
      this.#hold(name, noted)
    }
  }

  list(): HeldDescriptor[] {
    return [...this.#held]
      .map(([name, held]) => this.#describe(name, held))
      .sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  put({ name, fd, lifetime, ms, replace, by }: DescriptorOrder): void {
    let begun = false
    try {
      if (this.#held.has(name) && !replace)
        throw new FdbError(
          'ERR_FDB_FD_TAKEN',
          `a descriptor "${name}" is held already: choose another name, or have it replaced`,
        )
      if (this.#held.size >= MAX_ENTRIES && !this.#held.has(name)) throw tooMany(name)
      this.#claimable(name, by)
      if (lifetime !== null) refuseNoPidfd(lifetime)
      begun = true
      this.#forget(name)
      const now = Date.now()
      const noted = { pid: by.pid, putAt: now, until: ms === null ? null : now + Math.min(ms, LONGEST_MS) }
      this.#enter(keyOf(name), JSON.stringify(noted), fd)
      if (lifetime !== null) this.#enter(lifetimeOf(name), '', lifetime)
      this.#hold(name, noted)
    } catch (error) {
      if (begun) this.#forget(name)
      fd.close()
      lifetime?.close()
      throw error
    } finally {
      if (begun) this.#tell()
    }
  }

  claim(name: string, by: DescriptorUser, shared: boolean): OwnedFd {
    const held = this.#known(name)
    this.#claimable(name, by)
    const fd = this.#registry.get(keyOf(name))!.fd.dup()
    if (!shared && held.claimedBy !== by) {
      held.claimedBy = by
      this.#tell()
    }
    return fd
  }

  release(name: string, by: DescriptorUser): void {
    const held = this.#known(name)
    this.#claimable(name, by)
    if (held.claimedBy === null) return
    held.claimedBy = null
    this.#tell()
  }

  remove(name: string): void {
    this.#known(name)
    this.#forget(name)
    this.#tell()
  }

  left(by: DescriptorUser): void {
    const claimed = [...this.#held.values()].filter(({ claimedBy }) => claimedBy === by)
    for (const held of claimed) held.claimedBy = null
    if (claimed.length > 0) this.#tell()
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
    this.#watching.clear()
  }

  #describe(name: string, { pid, putAt, until, whilePid, claimedBy }: Held): HeldDescriptor {
    const about = inspectOne(this.#registry.get(keyOf(name))!.fd)
    return {
      name,
      type: about.type,
      address: about.type === 'socket' ? formatAddress(about) : null,
      inode: about.ino,
      pid,
      putAt: new Date(putAt).toISOString(),
      until: until === null ? null : new Date(until).toISOString(),
      whilePid,
      claimedBy: claimedBy?.pid ?? null,
    }
  }

  #enter(key: string, spec: string, fd: OwnedFd): void {
    this.#wanted.add(key)
    this.#registry.put({ name: key, role: 'named', spec, fd })
  }

  /** Its lease runs from now on. */
  #hold(name: string, noted: Noted): void {
    const lifetime = this.#registry.get(lifetimeOf(name))?.fd
    const over = () => {
      this.#forget(name)
      this.#tell()
    }
    const { until } = noted
    this.#held.set(name, {
      ...noted,
      timer: until === null ? undefined : setTimeout(over, restOf(until)).unref(),
      watch: lifetime === undefined ? null : watchDeath(lifetime, over),
      whilePid: lifetime === undefined ? null : pidOf(lifetime),
      claimedBy: null,
    })
  }

  #forget(name: string): void {
    const held = this.#held.get(name)
    clearTimeout(held?.timer)
    held?.watch?.close()
    this.#held.delete(name)
    for (const key of [keyOf(name), lifetimeOf(name)]) {
      this.#wanted.delete(key)
      this.#registry.drop(key)
    }
  }

  #known(name: string): Held {
    const held = this.#held.get(name)
    if (held !== undefined) return held
    throw new FdbError(
      'ERR_FDB_FD_UNKNOWN',
      `no descriptor "${name}" is held: fd-broker fd list shows which are`,
    )
  }

  #claimable(name: string, by: DescriptorUser): void {
    const { claimedBy = null } = this.#held.get(name) ?? {}
    if (claimedBy === null || claimedBy === by) return
    throw new FdbError(
      'ERR_FDB_FD_CLAIMED',
      `process ${claimedBy.pid} has claimed the descriptor "${name}" for itself: try again when it has released it, or has ended`,
      { retryable: true },
    )
  }

  #tell(): void {
    for (const changed of [...this.#watching]) changed()
  }
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
function notedIn(spec: string): Noted | null {
  try {
    const { pid, putAt, until } = JSON.parse(spec) as Partial<Noted>
    return typeof putAt === 'number' ? { pid: pid ?? 0, putAt, until: until ?? null } : null
  } catch {
    return null
  }
}

/** Milliseconds. No lease is longer: where it seems so the clock was set back, and a timer of more ends at once. */
function restOf(until: number): number {
  return Math.min(LONGEST_MS, Math.max(0, until - Date.now()))
}

function refuseNoPidfd(lifetime: OwnedFd): void {
  try {
    watchDeath(lifetime, () => {}).close()
  } catch (cause) {
    throw unwatchable(0, cause)
  }
}
