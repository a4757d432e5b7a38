import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import type { BundleItem } from '../wire/bundle.js'

/** A named descriptor and what it was asked for with. */
export interface Entry {
  readonly name: string
  readonly role: 'listener' | 'named'
  /** Listeners: the spec, as text. */
  readonly spec: string
  /** The master; servers borrow dups. */
  readonly fd: OwnedFd
}

/** More than this many names is a fault of the program, not a need. */
export const MAX_ENTRIES = 10_000

/** The named listeners and other descriptors of a service. Owns the masters. */
export class Registry {
  readonly #entries = new Map<string, Entry>()
  readonly #most: number
  /** A callback after each change. */
  changed: () => void = () => {}
  /** Told of each descriptor that comes in, under a new name or in place of another. */
  added: (entry: Entry) => void = () => {}

  constructor(most = MAX_ENTRIES) {
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

  /** Calls `changed` once for all changes of `work`, at its end. */
  together(work: () => void): void {
    const { changed } = this
    let any = false
    this.changed = () => {
      any = true
    }
    try {
      work()
    } finally {
      this.changed = changed
      if (any) changed()
    }
  }

  /** Takes ownership of the descriptor; an earlier one of that name is closed. */
  put(entry: Entry): void {
    const present = this.#entries.get(entry.name)
    if (present === undefined && this.#entries.size >= this.#most) {
      entry.fd.close()
      throw tooMany(entry.name)
    }
    if (present !== undefined && present.fd !== entry.fd) present.fd.close()
    this.#entries.set(entry.name, entry)
    this.changed()
    if (present?.fd !== entry.fd) this.added(entry)
  }

  drop(name: string): boolean {
    const entry = this.#entries.get(name)
    entry?.fd.close()
    const dropped = this.#entries.delete(name)
    if (dropped) this.changed()
    return dropped
  }

  /** The bundle borrows the descriptors. */
  items(): BundleItem[] {
    return this.entries.map(({ role, name, spec, fd }) => ({ role, name, spec, fd }))
  }

  close(): void {
    for (const name of this.names) this.drop(name)
  }
}

export function tooMany(name: string): FdbError {
  return new FdbError(
    'ERR_FDB_TOO_MANY_NAMES',
    `a service may name ${MAX_ENTRIES} descriptors; "${name}" would be one more: use fewer, or several services`,
  )
}
