import type { StoredSchema } from './records.js'
import { mergedSchema, storedForm } from './schema.js'
import type { Store } from './store.js'

export interface SectionDigest {
  name: string
  version: number
  entries: number
  digest: string
}

/** A section that is in the log or that the application has registered. */
export interface KnownSection extends StoredSchema {
  entries: number
}

export interface StateStats {
  segments: number
  bytes: number
  /** Bytes of live entries: the size of the log after a compaction. */
  liveBytes: number
  entries: number
  sequence: number
  waiting: number
}

/** An entry of the log: the bytes that the section's codec has encoded, and the schema version of the writer. */
export interface RawEntry {
  key: string
  value: Uint8Array
  version: number
}

export interface RawSection {
  /** Returns the keys in no particular order. */
  keys(): Iterable<string>
  get(key: string): RawEntry | undefined
}

export function digestsOf({ sections }: Store): SectionDigest[] {
  const all = [...sections.values()].flatMap(({ name, stored, slots, digest }) => {
    const entries = slots.size
    if (entries === 0 && !stored) return []
    return { name, version: stored?.version ?? 0, entries, digest: digest.toString() }
  })
  return all.sort(byName)
}

export function schemasOf({ sections }: Store): StoredSchema[] {
  return [...sections.values()].flatMap(({ stored }) => stored ?? []).sort(byName)
}

/** Returns the sections that are in the log or in `registered`, sorted by name. */
export function knownSections({ sections }: Store, registered: ReadonlySet<string>): KnownSection[] {
  const all = [...sections.values()].flatMap(({ name, stored, schema, slots }) => {
    if (stored === null && !registered.has(name)) return []
    const merged = stored && schema === null ? stored : mergedSchema(stored, storedForm(name, schema))
    return { ...merged, entries: slots.size }
  })
  return all.sort(byName)
}

export function rawSectionOf({ sections, entries }: Store, name: string): RawSection {
  const section = sections.get(name)
  return {
    keys: () => section?.slots.keys() ?? [],
    get: key => {
      const slot = section?.slots.get(key)
      return section && slot !== undefined ? { key, ...entries.read(section, key, slot) } : undefined
    },
  }
}

function byName(a: { name: string }, b: { name: string }): number {
  return a.name < b.name ? -1 : 1
}
