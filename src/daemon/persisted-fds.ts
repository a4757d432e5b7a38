import { CountByKey } from '../base/count-by-key.js'
import { FdbError } from '../errors.js'
import { namedEntry } from '../holder/entry.js'
import { MAX_ENTRIES, type Registry, tooMany } from '../holder/registry.js'
import type { OwnedFd } from '../kernel/index.js'
import { readHeader } from '../state/segment.js'
import { formatEntryKey, parseEntryKey } from './service/entry-key.js'
import type { ServiceItem } from './service/restored-service.js'

/** The registry's entry for one descriptor of a service. */
interface PersistedFd {
  /** The descriptor of the service; the registry has a duplicate of it. */
  readonly fd: OwnedFd
  readonly note: string
}

const WRITABLE = 'writable'
/** The role in the entry's name of an item that {@link ServiceItem.isProvisional}. A release that does not know it closes the descriptor. */
const PROVISIONAL = 'provisional'

/** The descriptors of a daemon's services, as entries of the daemon's own registry, so that its upgrade passes them on and a service manager stores them. */
export class PersistedFds {
  readonly #registry: Registry
  readonly #services = new Map<string, Map<string, PersistedFd>>()

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /** Returns the items of the previous daemon, by service. The caller owns the descriptors. */
  claimAll(): Map<string, ServiceItem[]> {
    const services = new Map<string, ServiceItem[]>()
    this.#services.clear()
    for (const { entry, note, fd, service, ...rest } of this.#items()) {
      const own = fd.share()
      this.#registry.wanted.add(entry)
      this.#persistedOf(service).set(entry, { fd: own, note })
      const items = services.get(service) ?? []
      items.push({ ...rest, fd: own })
      services.set(service, items)
    }
    return services
  }

  /** The largest number of descriptors of one service. */
  get largest(): number {
    const counts = new CountByKey<string>()
    for (const { name } of this.#registry.entries) {
      const key = parseEntryKey(name)
      if (key?.of === 'service') counts.add(key.service)
    }
    return Math.max(0, ...counts.values())
  }

  /** Throws if this release cannot take over the entries of the previous daemon: the errors of {@link readHeader}, or ERR_FDB_TOO_MANY_NAMES. */
  demandReadable(): void {
    const counts = new CountByKey<string>()
    for (const { fd, name = '', role, service } of this.#items()) {
      if (role !== 'segment') {
        if (counts.add(service) > MAX_ENTRIES) throw tooMany(name)
        continue
      }
      try {
        readHeader(fd, 0)
      } catch (error) {
        const { code, message } = FdbError.from(error)
        const reason = `the state of the service "${service}" (${name}) cannot be taken over: ${message}; the previous daemon continues`
        throw new FdbError(code, reason, { cause: error, details: { service } })
      }
    }
  }

  /** Sets the descriptors of the service, which are borrowed. If it throws (EMFILE), the next call stores the missing ones. */
  update(service: string, items: readonly ServiceItem[]): void {
    this.#registry.together(() => this.#update(service, items))
  }

  #update(service: string, items: readonly ServiceItem[]): void {
    const persisted = this.#persistedOf(service)
    const obsolete = new Set(persisted.keys())
    for (const item of items) {
      const { fd } = item
      const role = item.isProvisional ? PROVISIONAL : item.role
      const name = formatEntryKey({ of: 'service', service, role, name: item.name ?? '' })
      const note = noteOf(item)
      const known = persisted.get(name)
      obsolete.delete(name)
      if (known?.fd === fd && known.note === note) continue
      // Reuses the duplicate: a service manager that stores it would first have to remove it.
      const duplicate = known?.fd === fd ? this.#registry.get(name)?.fd : undefined
      this.#registry.put(namedEntry(name, duplicate ?? fd.share(), note))
      this.#registry.wanted.add(name)
      persisted.set(name, { fd, note })
    }
    for (const name of obsolete) {
      persisted.delete(name)
      this.#registry.drop(name)
    }
  }

  /** Removes the descriptors of a service that has ended. */
  dropService(service: string): void {
    this.update(service, [])
    this.#services.delete(service)
  }

  /** Yields the items in the registry of all services, each with the name and the note of its entry. */
  *#items(): Generator<ServiceItem & { service: string; entry: string; note: string }> {
    for (const { name: entry, note, fd } of this.#registry.named) {
      const item = itemOf(entry, note, fd)
      if (item !== null) yield { ...item, entry, note }
    }
  }

  #persistedOf(service: string): Map<string, PersistedFd> {
    const known = this.#services.get(service) ?? new Map<string, PersistedFd>()
    this.#services.set(service, known)
    return known
  }
}

/** The specification of a listener, or a note about another descriptor. */
function noteOf({ role, spec = '', writable }: ServiceItem): string {
  if (role !== 'segment') return spec
  return writable ? WRITABLE : ''
}

/** Returns null for an entry of another kind, or of a release that encodes it differently. */
function itemOf(entry: string, note: string, fd: OwnedFd): (ServiceItem & { service: string }) | null {
  const key = parseEntryKey(entry)
  if (key?.of !== 'service') return null
  const { service, role, name } = key
  if (role === 'segment') return { service, role, name, writable: note === WRITABLE, fd }
  if (role === 'events') return { service, role, name, fd }
  if (role === PROVISIONAL) return { service, role: 'named', name, spec: note, isProvisional: true, fd }
  return role === 'listener' || role === 'named' ? { service, role, name, spec: note, fd } : null
}
