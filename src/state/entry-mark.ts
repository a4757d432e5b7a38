import { nodeCrypto } from '../base/lazy.js'
import type { SectionStore } from './section-store.js'
import type { Store } from './store.js'

const MARK_BYTES = 16
const NONE: Uint8Array = new Uint8Array(0)

/** An entry that an update has read. */
export interface EntryRead {
  readonly section: string
  readonly key: string
  /** {@link markOf} it, when it was read. */
  readonly mark: Uint8Array
}

/**
 * Stands for what an entry is: its value and the schema version that wrote it; empty: there is none. Two processes with the same
 * state come to the same one. An entry that has become what it was before has its mark again: an update that has read
 * it comes to the same.
 */
export function markOf(store: Store, section: SectionStore | undefined, key: string): Uint8Array {
  const slot = section?.slots.get(key)
  if (section === undefined || slot === undefined) return NONE
  const { value, version } = store.entries.read(section, key, slot)
  const hash = nodeCrypto().createHash('sha256').update(`${version} `).update(value).digest()
  return hash.subarray(0, MARK_BYTES)
}

export function isStill(store: Store, { section, key, mark }: EntryRead): boolean {
  return Buffer.compare(markOf(store, store.sections.get(section), key), mark) === 0
}
