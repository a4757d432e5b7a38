import protobufjs from 'protobufjs/minimal.js'
import type { BulkChange } from '../../index.js'

export interface Entry {
  created: number
  generation: number
  $unknowns?: Uint8Array[]
}

/** The part of a section that is compared. A `Map` of messages is one too. */
export interface EntryState<M> {
  /** May throw, for an entry that cannot be read: it is written anew. */
  get(key: string): M | undefined
  has(key: string): boolean
  keys(): Iterable<string>
}

export interface DifferenceOptions<M> {
  encode(message: M): Uint8Array
  /** Unknown fields below this number go when an entry is written, those from it on stay. Default 1: all stay. */
  keptFrom?: number
  /** Unwanted entries are deleted, but for these. */
  keeps(key: string): boolean
}

export interface Difference<M> {
  puts: { key: string; value: M }[]
  deletes: string[]
  /** The puts of keys that were not there. */
  added: string[]
}

/** The changes that give a section the wanted entries. Equal ones stay as they are; fields of newer versions stay. Yields where it may be interrupted. */
export function* difference<M extends Entry>(
  state: EntryState<M>,
  wanted: ReadonlyMap<string, M>,
  { encode, keptFrom = 1, keeps }: DifferenceOptions<M>,
): Generator<undefined, Difference<M>> {
  const result: Difference<M> = { puts: [], deletes: [], added: [] }
  for (const [key, message] of wanted) {
    yield
    const before = readable(state, key)
    const kept = unknownFields(before, keptFrom)
    const value = kept.length > 0 ? { ...message, $unknowns: kept } : message
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

/** The changes, for `bulk`. */
export function* changesOf<M>({
  puts,
  deletes,
}: Pick<Difference<M>, 'puts' | 'deletes'>): Generator<BulkChange<M>> {
  yield* puts
  for (const key of deletes) yield { key, delete: true }
}

/** Undefined: it is not there, or cannot be read. */
export function readable<M>(state: Pick<EntryState<M>, 'get'>, key: string): M | undefined {
  try {
    return state.get(key)
  } catch {
    return undefined
  }
}

/** The fields of a message that newer versions wrote and this one does not know, from this field number on. */
export function unknownFields(message: { $unknowns?: Uint8Array[] } | undefined, from = 1): Uint8Array[] {
  return (message?.$unknowns ?? []).filter(field => protobufjs.Reader.create(field).uint32() >>> 3 >= from)
}
