import { Digest } from './digest.js'
import type { StoredSchema } from './records.js'
import type { SectionSchema } from './schema.js'
import { SlotMap } from './slot-map.js'

export interface SectionChange {
  op: 'put' | 'delete' | 'clear'
  /** Empty for `clear`. */
  key: string
  /** 'local': appended by this log; 'replay': read from a segment. */
  origin: 'local' | 'replay'
}

export type ChangeListener = (change: SectionChange) => void

/** One section as the log has it: keys, where their values lie, the digest. Knows nothing of codecs. */
export class SectionStore {
  readonly name: string
  readonly nameBytes: Buffer
  /** Key to slot in the store's locations. */
  slots = new SlotMap()
  readonly digest = new Digest()
  readonly listeners = new Set<ChangeListener>()
  /** Called when any number of entries has changed at once, before the listeners are told of each. */
  readonly resets = new Set<() => void>()
  /** What the log says about it; null while it says nothing. */
  stored: StoredSchema | null = null
  /** What this process registered. */
  schema: SectionSchema<never> | null = null

  constructor(name: string) {
    this.name = name
    this.nameBytes = Buffer.from(name)
  }

  /** The log must say first that this process writes with a schema it does not know yet, or an older one. */
  get needsSchema(): boolean {
    return this.stored === null || (this.schema !== null && this.schema.version > this.stored.version)
  }

  isNamed(buffer: Buffer, start: number, end: number): boolean {
    const name = this.nameBytes
    if (end - start !== name.length) return false
    for (let i = 0; i < name.length; i++) if (buffer[start + i] !== name[i]) return false
    return true
  }
}
