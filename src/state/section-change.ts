import { FdbError } from '../errors.js'
import type { Location } from './locations.js'
import type { StoredChange } from './section-store.js'

/** A change that was applied. */
export interface SectionChange<T = unknown> {
  readonly op: 'put' | 'delete' | 'clear'
  /** Empty for `clear`. */
  readonly key: string
  /** 'local': appended by this process; 'replay': read from what another one wrote. */
  readonly origin: 'local' | 'replay'
  /**
   * What the entry was before; undefined: there was none, or it is a `clear`. Read from the log when it is asked for, which
   * must be before the listener returns. Throws as `get` does where it cannot be decoded.
   */
  readonly previous: T | undefined
}

export type ChangeListener<T = unknown> = (change: SectionChange<T>) => void

/** A change as a listener is told of it. */
export class ToldChange<T> implements SectionChange<T> {
  readonly op: SectionChange['op']
  readonly key: string
  readonly origin: SectionChange['origin']
  readonly #before: Location | null
  readonly #read: (at: Location) => T
  #previous: T | undefined
  #known: boolean
  #over = false

  private constructor({ op, key, origin, before }: StoredChange, read: (at: Location) => T) {
    this.op = op
    this.key = key
    this.origin = origin
    this.#before = before
    this.#read = read
    this.#known = before === null
  }

  /** `read`: decodes what lies there, as long as it does. */
  static tell<T>(listener: ChangeListener<T>, change: StoredChange, read: (at: Location) => T): void {
    const told = new ToldChange(change, read)
    try {
      listener(told)
    } finally {
      told.#over = true
    }
  }

  get previous(): T | undefined {
    if (this.#known) return this.#previous
    if (this.#over) {
      throw new FdbError(
        'ERR_FDB_STATE_MOVED',
        `what "${this.key}" was before may be gone from the log by now: read \`previous\` before the listener returns`,
      )
    }
    this.#previous = this.#read(this.#before!)
    this.#known = true
    return this.#previous
  }
}
