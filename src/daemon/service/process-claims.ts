import { FdbError } from '../../errors.js'
import type { Registry } from '../../holder/registry.js'
import { hasEnded, type OwnedFd } from '../../kernel/index.js'
import type { ClaimingProcess } from '../../operator/held-descriptors.js'
import { type DeathWatch, keyOf, pidOf, refuseNoPidfd, watchDeathDirectly } from '../../os/liveness.js'

/** More processes with one descriptor are a mistake: each costs a descriptor here. */
const MOST = 64

interface Claim {
  /** In the registry. */
  readonly key: string
  /** Lent by the registry. */
  readonly pidfd: OwnedFd
  readonly watch: DeathWatch
  readonly pid: number
  /** Milliseconds since 1970. */
  readonly since: number
  readonly exclusive: boolean
  /** The uid of the process that asked for it. */
  readonly uid: number
}

/** The claims of processes on descriptors for as long as they live. The pidfds are entries of the same registry. */
export class ProcessClaims {
  readonly #registry: Registry
  readonly #wanted: Set<string>
  readonly #onEnd: (name: string, pid: number) => void
  readonly #claims = new Map<string, Claim[]>()
  #count = 0

  /** `ended`: this process claims it no more, as it has ended. */
  constructor(registry: Registry, wanted: Set<string>, ended: (name: string, pid: number) => void) {
    this.#registry = registry
    this.#wanted = wanted
    this.#onEnd = ended
  }

  /** The claims of living processes, in their order. */
  of(name: string): ClaimingProcess[] {
    return this.#living(name).map(({ pid, since, exclusive }) => ({
      pid,
      since: new Date(since).toISOString(),
      exclusive,
    }))
  }

  /** The number of claims that this user asked for. */
  countOf(user: number): number {
    return [...this.#claims.values()].flat().filter(({ uid }) => uid === user).length
  }

  /** Those of other processes than that of this pidfd (null: of all). */
  others(name: string, pidfd: OwnedFd | null): Pick<Claim, 'pid' | 'exclusive'>[] {
    return this.#living(name).filter(claim => pidfd === null || !isSame(claim.pidfd, pidfd))
  }

  /** In place of one of the same process. Takes the pidfd, also when it throws: ERR_FDB_NO_PIDFD. */
  add(name: string, pidfd: OwnedFd, by: Pick<Claim, 'exclusive' | 'uid'>): void {
    try {
      const there = this.others(name, pidfd).length
      if (there >= MOST)
        throw new FdbError(
          'ERR_FDB_FD_CLAIMED',
          `${there} processes have claimed the descriptor "${name}", and no more may: end some of them`,
          { retryable: true },
        )
      refuseNoPidfd(pidfd)
    } catch (error) {
      pidfd.close()
      throw error
    }
    this.release(name, pidfd)
    const since = Date.now()
    const key = keyFor(name, `${since}.${++this.#count}`)
    this.#registry.put({ name: key, role: 'named', spec: JSON.stringify({ since, ...by }), fd: pidfd })
    this.#watch(name, key, pidfd, { since, ...by })
  }

  /** The process of this pidfd claims it no more; whether it did. */
  release(name: string, pidfd: OwnedFd): boolean {
    const claim = this.#claims.get(name)?.find(each => isSame(each.pidfd, pidfd))
    if (claim !== undefined) this.#drop(name, claim)
    return claim !== undefined
  }

  /** Removes all claims of it. */
  forget(name: string): void {
    for (const claim of [...(this.#claims.get(name) ?? [])]) this.#drop(name, claim)
  }

  /** Those that the registry has of the descriptors that are `held`. */
  takeOver(held: (name: string) => boolean): void {
    for (const { name: key, spec, fd } of this.#registry.entries) {
      const name = nameIn(key)
      const noted = name === null ? null : parseClaim(spec)
      if (name !== null && noted !== null && held(name)) this.#watch(name, key, fd, noted)
    }
  }

  /** The registry stays as it is. */
  close(): void {
    for (const claims of this.#claims.values()) for (const { watch } of claims) watch.close()
    this.#claims.clear()
  }

  #living(name: string): Claim[] {
    return (this.#claims.get(name) ?? []).filter(({ pidfd }) => !hasEnded(pidfd))
  }

  #watch(name: string, key: string, pidfd: OwnedFd, noted: Pick<Claim, 'since' | 'exclusive' | 'uid'>): void {
    const pid = pidOf(pidfd)
    const watch = watchDeathDirectly(pidfd, () => {
      this.#drop(name, claim)
      this.#onEnd(name, pid)
    })
    const claim: Claim = { key, pidfd, watch, pid, ...noted }
    this.#wanted.add(key)
    this.#claims.set(name, [...(this.#claims.get(name) ?? []), claim])
  }

  #drop(name: string, claim: Claim): void {
    claim.watch.close()
    const rest = (this.#claims.get(name) ?? []).filter(each => each !== claim)
    if (rest.length === 0) this.#claims.delete(name)
    else this.#claims.set(name, rest)
    this.#wanted.delete(claim.key)
    this.#registry.drop(claim.key)
  }
}

function isSame(one: OwnedFd, other: OwnedFd): boolean {
  const key = keyOf(one)
  return key !== null && key === keyOf(other)
}

/** A colon is in no name. */
function keyFor(name: string, rest: string): string {
  return `claim/${encodeURIComponent(`${name}:${rest}`)}`
}

function nameIn(key: string): string | null {
  const [kind, text, more] = key.split('/')
  if (kind !== 'claim' || text === undefined || more !== undefined) return null
  const whole = decodeURIComponent(text)
  return whole.slice(0, Math.max(0, whole.lastIndexOf(':'))) || null
}

/** Null: of a release that says it otherwise. */
function parseClaim(spec: string): Pick<Claim, 'since' | 'exclusive' | 'uid'> | null {
  try {
    const { since, exclusive = false, uid = 0 } = JSON.parse(spec) as Partial<Claim>
    return typeof since === 'number' ? { since, exclusive, uid } : null
  } catch {
    return null
  }
}
