import protobufjs from 'protobufjs/minimal.js'
import type { BulkChange } from '../../index.js'

export interface Entry {
  created: number
  generation: number
  $unknowns?: Uint8Array[]
}

/** The compared part of a section, or a `Map` of messages. */
export interface EntryState<M> {
  /** May throw for an unreadable entry, which is then replaced. */
  get(key: string): M | undefined
  has(key: string): boolean
  keys(): Iterable<string>
}

export interface DifferenceOptions<M> {
  encode(message: M): Uint8Array
  /** A rewritten entry keeps its unknown fields from this number on. Default 1: all. */
  keptFrom?: number
  /** Unwanted entries with these keys are kept. */
  keeps(key: string): boolean
}

export interface Difference<M> {
  puts: { key: string; value: M }[]
  deletes: string[]
  /** The keys of `puts` that are new. */
  added: string[]
}

/** Computes the changes that give a section the wanted entries. Equal entries are not written; fields of newer versions are kept. Yields where it may pause. */
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

export function* changesOf<M>({
  puts,
  deletes,
}: Pick<Difference<M>, 'puts' | 'deletes'>): Generator<BulkChange<M>> {
  yield* puts
  for (const key of deletes) yield { key, delete: true }
}

/** Undefined: missing or unreadable. */
export function readable<M>(state: Pick<EntryState<M>, 'get'>, key: string): M | undefined {
  try {
    return state.get(key)
  } catch {
    return undefined
  }
}

/** A message's unknown fields, which newer versions wrote, from this number on. */
export function unknownFields(message: { $unknowns?: Uint8Array[] } | undefined, from = 1): Uint8Array[] {
  return (message?.$unknowns ?? []).filter(field => protobufjs.Reader.create(field).uint32() >>> 3 >= from)
}
