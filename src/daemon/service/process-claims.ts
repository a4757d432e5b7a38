import { jsonObject } from '../../base/json.js'
import { FdbError } from '../../errors.js'
import { namedEntry } from '../../holder/entry.js'
import type { Registry } from '../../holder/registry.js'
import { closeOnThrow, hasEnded, type OwnedFd } from '../../kernel/index.js'
import type { ClaimingProcess } from '../../operator/held-descriptors.js'
import { type DeathWatch, pidOf, processKey, refuseNoPidfd, watchDeathDirectly } from '../../os/liveness.js'
import { formatEntryKey, parseEntryKey } from './entry-key.js'

/** Limit of processes per descriptor: each claim takes a descriptor of the daemon. */
const MOST = 64

interface Claim {
  /** The key of the pidfd's registry entry. */
  readonly key: string
  /** Owned by the registry. */
  readonly pidfd: OwnedFd
  readonly watch: DeathWatch
  readonly pid: number
  /** Milliseconds since 1970. */
  readonly since: number
  readonly exclusive: boolean
  /** The uid of the process that requested the claim. */
  readonly uid: number
}

/** Claims on descriptors that last as long as a process lives. The pidfds are entries of the daemon's registry. */
export class ProcessClaims {
  readonly #registry: Registry
  readonly #onEnd: (name: string, pid: number) => void
  readonly #claims = new Map<string, Claim[]>()
  #count = 0

  /** `onEnd` is called when the process of a claim has ended. */
  constructor(registry: Registry, onEnd: (name: string, pid: number) => void) {
    this.#registry = registry
    this.#onEnd = onEnd
  }

  /** Returns the claims of living processes, oldest first. */
  of(name: string): ClaimingProcess[] {
    return this.#living(name).map(({ pid, since, exclusive }) => ({
      pid,
      since: new Date(since).toISOString(),
      exclusive,
    }))
  }

  countOf(user: number): number {
    return [...this.#claims.values()].flat().filter(({ uid }) => uid === user).length
  }

  /** Returns the claims of all processes except the process of `pidfd`, if given. */
  others(name: string, pidfd: OwnedFd | null): Pick<Claim, 'pid' | 'exclusive'>[] {
    return this.#living(name).filter(claim => pidfd === null || !isSame(claim.pidfd, pidfd))
  }

  /** Adds a claim; it replaces one of the same process. Takes ownership of the pidfd, also if it throws (ERR_FDB_FD_CLAIMED, ERR_FDB_NO_PIDFD). */
  add(name: string, pidfd: OwnedFd, by: Pick<Claim, 'exclusive' | 'uid'>): void {
    closeOnThrow([pidfd], () => {
      const others = this.others(name, pidfd).length
      if (others >= MOST)
        throw new FdbError(
          'ERR_FDB_FD_CLAIMED',
          `${others} processes have claimed the descriptor "${name}", which is the maximum: end some of them`,
          { retryable: true },
        )
      refuseNoPidfd(pidfd)
    })
    this.release(name, pidfd)
    const since = Date.now()
    const key = formatEntryKey({ of: 'claim', name, id: `${since}.${++this.#count}` })
    this.#registry.put(namedEntry(key, pidfd, JSON.stringify({ since, ...by })))
    this.#watch(name, key, pidfd, { since, ...by })
  }

  /** Ends the claim of a pidfd's process. Returns whether there was one. */
  release(name: string, pidfd: OwnedFd): boolean {
    const claim = this.#claims.get(name)?.find(each => isSame(each.pidfd, pidfd))
    if (claim !== undefined) this.#drop(name, claim)
    return claim !== undefined
  }

  /** Removes all claims on a descriptor. */
  forget(name: string): void {
    for (const claim of [...(this.#claims.get(name) ?? [])]) this.#drop(name, claim)
  }

  /** Takes over the claims in the registry that it does not know, for the descriptors for which `held` is true. */
  takeOver(held: (name: string) => boolean): void {
    const known = new Set([...this.#claims.values()].flat().map(({ key }) => key))
    for (const { name: key, note, fd } of this.#registry.named) {
      if (known.has(key)) continue
      const entry = parseEntryKey(key)
      const claim = entry?.of === 'claim' && held(entry.name) ? parseClaim(note) : null
      if (entry !== null && claim !== null) this.#watch(entry.name, key, fd, claim)
    }
  }

  /** Ends all watches; the registry keeps its entries. */
  close(): void {
    for (const claims of this.#claims.values()) for (const { watch } of claims) watch.close()
    this.#claims.clear()
  }

  #living(name: string): Claim[] {
    return (this.#claims.get(name) ?? []).filter(({ pidfd }) => !hasEnded(pidfd))
  }

  #watch(
    name: string,
    key: string,
    pidfd: OwnedFd,
    record: Pick<Claim, 'since' | 'exclusive' | 'uid'>,
  ): void {
    const pid = pidOf(pidfd)
    const watch = watchDeathDirectly(pidfd, () => {
      this.#drop(name, claim)
      this.#onEnd(name, pid)
    })
    const claim: Claim = { key, pidfd, watch, pid, ...record }
    this.#registry.wanted.add(key)
    this.#claims.set(name, [...(this.#claims.get(name) ?? []), claim])
  }

  #drop(name: string, claim: Claim): void {
    claim.watch.close()
    const remaining = (this.#claims.get(name) ?? []).filter(each => each !== claim)
    if (remaining.length === 0) this.#claims.delete(name)
    else this.#claims.set(name, remaining)
    this.#registry.drop(claim.key)
  }
}

function isSame(one: OwnedFd, other: OwnedFd): boolean {
  const key = processKey(one)
  return key !== null && key === processKey(other)
}

/** Returns null for a record of a release that encodes it differently. */
function parseClaim(note: string): Pick<Claim, 'since' | 'exclusive' | 'uid'> | null {
  const { since, exclusive = false, uid = 0 } = (jsonObject(note) ?? {}) as Partial<Claim>
  return typeof since === 'number' ? { since, exclusive, uid } : null
}
