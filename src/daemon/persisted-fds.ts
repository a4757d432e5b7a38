import { FdbError } from '../errors.js'
import { MAX_ENTRIES, type Registry, tooMany } from '../holder/registry.js'
import type { OwnedFd } from '../kernel/index.js'
import { readHeader } from '../state/segment.js'
import type { BundleItem } from '../wire/bundle.js'

/** The registry's entry for one descriptor of a service. */
interface PersistedFd {
  /** The service's own, of which a duplicate is in the registry. */
  readonly fd: OwnedFd
  readonly spec: string
}

const WRITABLE = 'writable'

/** The descriptors of a daemon's services, as entries of its own member's registry: they cross its upgrade, and a manager keeps them. */
export class PersistedFds {
  readonly #registry: Registry
  readonly #wanted: Set<string>
  readonly #services = new Map<string, Map<string, PersistedFd>>()

  /** `wanted`: other names are closed when no standby can come back. */
  constructor(registry: Registry, wanted: Set<string>) {
    this.#registry = registry
    this.#wanted = wanted
  }

  /** The items of the former daemon, by service. The caller owns the descriptors. */
  claimAll(): Map<string, BundleItem[]> {
    const services = new Map<string, BundleItem[]>()
    this.#services.clear()
    for (const { name, spec, fd } of this.#registry.entries) {
      const item = itemOf(name, spec, fd)
      if (item === null) continue
      const { service, ...rest } = item
      const own = fd.share()
      this.#wanted.add(name)
      this.#persistedOf(service).set(name, { fd: own, spec })
      const items = services.get(service) ?? []
      items.push({ ...rest, fd: own })
      services.set(service, items)
    }
    return services
  }

  /** The most that there is of one service. */
  get largest(): number {
    const counts = new Map<string, number>()
    for (const { name } of this.#registry.entries) {
      const [service = '', , called] = name.split('/', 3)
      if (called !== undefined) counts.set(service, (counts.get(service) ?? 0) + 1)
    }
    return Math.max(0, ...counts.values())
  }

  /** Throws as {@link readHeader} does, and ERR_FDB_TOO_MANY_NAMES: this release cannot take what another one holds. */
  demandReadable(): void {
    const counts = new Map<string, number>()
    for (const { name, spec, fd } of this.#registry.entries) {
      const item = itemOf(name, spec, fd)
      if (item === null) continue
      const { service, role } = item
      if (role !== 'segment') {
        const count = (counts.get(service) ?? 0) + 1
        if (count > MAX_ENTRIES) throw tooMany(item.name ?? '')
        counts.set(service, count)
        continue
      }
      try {
        readHeader(fd, 0)
      } catch (error) {
        const { code, message } = FdbError.from(error)
        const why = `the state of the service "${service}" (${item.name}) cannot be taken over: ${message}; the daemon before goes on`
        throw new FdbError(code, why, { cause: error, details: { service } })
      }
    }
  }

  /** Sets the descriptors of the service. Borrows them. Those not stored when it throws (EMFILE) are tried with the next change. */
  update(service: string, items: readonly BundleItem[]): void {
    this.#registry.together(() => this.#update(service, items))
  }

  #update(service: string, items: readonly BundleItem[]): void {
    const persisted = this.#persistedOf(service)
    const former = new Set(persisted.keys())
    for (const item of items) {
      const { fd } = item
      const [name, spec] = [nameOf(service, item), specOf(item)]
      const there = persisted.get(name)
      former.delete(name)
      if (there?.fd === fd && there.spec === spec) continue
      // The one that is there stays: who keeps it beside would have to let go of it first.
      const present = there?.fd === fd ? this.#registry.get(name)?.fd : undefined
      this.#registry.put({ name, role: 'named', spec, fd: present ?? fd.share() })
      this.#wanted.add(name)
      persisted.set(name, { fd, spec })
    }
    for (const name of former) {
      persisted.delete(name)
      this.#wanted.delete(name)
      this.#registry.drop(name)
    }
  }

  /** The service is no more. */
  forget(service: string): void {
    this.update(service, [])
    this.#services.delete(service)
  }

  #persistedOf(service: string): Map<string, PersistedFd> {
    const known = this.#services.get(service) ?? new Map<string, PersistedFd>()
    this.#services.set(service, known)
    return known
  }
}

function nameOf(service: string, { role, name = '' }: BundleItem): string {
  return [service, role, name].map(encodeURIComponent).join('/')
}

function specOf({ role, spec = '', writable }: BundleItem): string {
  if (role !== 'segment') return spec
  return writable ? WRITABLE : ''
}

/** Null: of a release that says it otherwise. */
function itemOf(name: string, spec: string, fd: OwnedFd): (BundleItem & { service: string }) | null {
  const [service, role, called] = name.split('/').map(decodeURIComponent)
  if (service === undefined || called === undefined) return null
  if (role === 'segment') return { service, role, name: called, writable: spec === WRITABLE, fd }
  return role === 'listener' || role === 'named' ? { service, role, name: called, spec, fd } : null
}
