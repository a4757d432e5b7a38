import protobufjs from 'protobufjs/minimal.js'
import { runInSlices, type Section } from '../../index.js'

/** The generation that wrote an entry, and the time (milliseconds since 1970). */
export interface Stamp {
  generation: number
  created: number
}

export interface StoredEntry extends Stamp {
  $unknowns?: Uint8Array[]
}

/** The part of a section that `difference` needs; a `Map` of messages has it too. */
export interface EntryState<M> {
  /** May throw for an unreadable entry, which `difference` then replaces. */
  get(key: string): M | undefined
  has(key: string): boolean
  keys(): Iterable<string>
}

/** In a stored message fields with lower numbers are its value, of which it has exactly one; fields from this number on are attributes of every entry. */
export const FIRST_ATTRIBUTE = 14

export interface DifferenceOptions<M> {
  encode(message: M): Uint8Array
  /** A rewritten entry keeps the unknown fields from this field number on. Default 1: all. */
  keptFrom?: number
  /** Reports whether to keep an entry that is not in `wanted`. */
  keeps(key: string): boolean
}

export interface SectionChanges<M> {
  puts: { key: string; value: M }[]
  deletes: string[]
  /** The keys of `puts` that the section does not have yet. */
  added: string[]
}

/** Computes the changes that give a section the wanted entries. Skips equal entries, and keeps fields of newer versions. A generator: each `yield` is a point at which the caller may end its turn of the event loop. */
export function* difference<M extends StoredEntry>(
  state: EntryState<M>,
  wanted: ReadonlyMap<string, M>,
  { encode, keptFrom = 1, keeps }: DifferenceOptions<M>,
): Generator<undefined, SectionChanges<M>> {
  const result: SectionChanges<M> = { puts: [], deletes: [], added: [] }
  for (const [key, message] of wanted) {
    yield
    const before = getIfReadable(state, key)
    const newerFields = unknownFields(before, keptFrom)
    const value = newerFields.length > 0 ? { ...message, $unknowns: newerFields } : message
    if (before !== undefined) {
      const { created, generation } = before
      if (Buffer.compare(encode({ ...value, created, generation }), encode(before)) === 0) continue
    }
    if (!state.has(key)) result.added.push(key)
    result.puts.push({ key, value })
  }
  for (const key of state.keys()) if (!wanted.has(key) && !keeps(key)) result.deletes.push(key)
  return result
}

/** Changes the section to the wanted entries. Returns null if nothing differs. Rejects with ERR_FDB_FENCED if another process serves by then, which has a configuration of its own. */
export async function applyDifference<M extends StoredEntry>(
  section: Section<M>,
  wanted: ReadonlyMap<string, M>,
  options: DifferenceOptions<M>,
): Promise<SectionChanges<M> | null> {
  const found = await runInSlices(difference(section, wanted, options))
  if (found.puts.length + found.deletes.length === 0) return null
  await section.ownBulk_(changesOf(found))
  return found
}

export function* changesOf<M>({
  puts,
  deletes,
}: Pick<SectionChanges<M>, 'puts' | 'deletes'>): Generator<
  SectionChanges<M>['puts'][number] | { key: string; delete: true }
> {
  yield* puts
  for (const key of deletes) yield { key, delete: true }
}

/** Returns undefined for a missing or unreadable entry. Calls `onUnreadable` for the latter. */
export function getIfReadable<M>(
  state: Pick<EntryState<M>, 'get'>,
  key: string,
  onUnreadable: (key: string, error: unknown) => void = () => {},
): M | undefined {
  try {
    return state.get(key)
  } catch (error) {
    onUnreadable(key, error)
    return undefined
  }
}

/** Returns the unknown fields of a message (those of newer versions) with field numbers of at least `from`. */
export function unknownFields(message: { $unknowns?: Uint8Array[] } | undefined, from = 1): Uint8Array[] {
  return (message?.$unknowns ?? []).filter(field => protobufjs.Reader.create(field).uint32() >>> 3 >= from)
}
