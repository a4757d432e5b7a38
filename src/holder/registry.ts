import { FdbError } from '../errors.js'
import type { ListenerGuard } from '../listeners/index.js'
import type { BundleItem } from '../wire/bundle.js'
import { type Entry, entryItem, type ListenerEntry, type NamedEntry } from './entry.js'

/** More names than this are a bug of the program. */
export const MAX_ENTRIES = 10_000

/** The named listeners and other descriptors of a service. Owns the descriptors. */
export class Registry {
  readonly #entries = new Map<string, Entry>()
  readonly #most: number
  /** The names of the entries that this version uses. The others are closed when the handoff to this version cannot be undone any more. */
  readonly wanted = new Set<string>()
  changed: () => void = () => {}
  /** Keeps the listeners reachable. Null if another registry of this process does that. */
  readonly guard: ListenerGuard | null
  /** Whether this version has bound the listener, and an earlier one, which does not know it, may serve again. */
  isProvisional: (entry: Entry) => boolean = () => false
  /** Called when a name gets a descriptor, or another one. */
  added: (entry: Entry) => void = () => {}
  /** Called before an entry is closed; `successor` takes its place. */
  removing: (entry: Entry, successor: Entry | null) => void = () => {}

  constructor(guard: ListenerGuard | null = null, most = MAX_ENTRIES) {
    this.guard = guard
    this.#most = most
  }

  get(name: string): Entry | undefined {
    return this.#entries.get(name)
  }

  get size(): number {
    return this.#entries.size
  }

  get names(): string[] {
    return [...this.#entries.keys()]
  }

  get entries(): Entry[] {
    return [...this.#entries.values()]
  }

  get listeners(): ListenerEntry[] {
    return this.entries.filter(entry => entry.role === 'listener')
  }

  get named(): NamedEntry[] {
    return this.entries.filter(entry => entry.role === 'named')
  }

  /** Calls `changed` once, after all changes of `work`. */
  together(work: () => void): void {
    const { changed } = this
    let anyChange = false
    this.changed = () => {
      anyChange = true
    }
    try {
      work()
    } finally {
      this.changed = changed
      if (anyChange) changed()
    }
  }

  /** Owns the descriptor; closes the present one of that name. Throws ERR_FDB_TOO_MANY_NAMES. */
  put(entry: Entry): void {
    const present = this.#entries.get(entry.name)
    if (present === undefined && this.#entries.size >= this.#most) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    if (present !== undefined && present.fd !== entry.fd) this.#close(present, entry)
    this.#entries.set(entry.name, entry)
    if (entry.role === 'listener') this.guard?.add(entry)
    this.changed()
    if (present?.fd !== entry.fd) this.added(entry)
  }

  drop(name: string): boolean {
    this.wanted.delete(name)
    const entry = this.#entries.get(name)
    if (entry !== undefined) this.#close(entry, null)
    const dropped = this.#entries.delete(name)
    if (dropped) this.changed()
    return dropped
  }

  /** The bundle borrows the descriptors. */
  items(): BundleItem[] {
    return this.entries.map(entryItem)
  }

  /** A named descriptor may be one that the application has closed itself: then the other entries must be closed nevertheless. */
  #close(entry: Entry, successor: Entry | null): void {
    const { fd, role } = entry
    this.guard?.remove(fd)
    try {
      try {
        this.removing(entry, successor)
      } finally {
        fd.close()
      }
    } catch (error) {
      if (role !== 'named' || (error as NodeJS.ErrnoException).code !== 'EBADF') throw error
    }
  }

  close(): void {
    for (const name of this.names) this.drop(name)
  }
}

export function tooMany(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_TOO_MANY_NAMES',
    `a service may name at most ${MAX_ENTRIES} descriptors, and "${name}" exceeds the limit: use fewer names, or several services`,
  )
}
