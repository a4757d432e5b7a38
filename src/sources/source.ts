/** A larger value is refused: one change must fit into a record of the state. */
export const MOST_VALUE_BYTES = 4 * 1024 * 1024

/** An entry of a source: its key, without the source's prefix, and its value as the source has it. */
export interface SourceEntry {
  readonly key: string
  readonly value: Uint8Array
}

/** An entry as it is now; `value` null: the entry was deleted. */
export interface SourceChange {
  readonly key: string
  readonly value: Uint8Array | null
}

/** A step from one revision of a source to the next, which is applied as one change of the state. */
export type SourceBatch =
  | { readonly all: readonly SourceEntry[]; readonly revision: string | null }
  | { readonly changes: readonly SourceChange[]; readonly revision: string }

/** The keys that a section has from its source, with those of entries that it has refused. */
export interface KnownKeys {
  readonly size: number
  has(key: string): boolean
  keys(): Iterable<string>
}

/** A store outside of this service with the contents of one section. */
export interface Source {
  /** Names the store and the part of it that is read. The revisions of a source with another `id` mean nothing. */
  readonly id: string
  /**
   * Yields the contents and then their changes, until `signal` aborts: first `all` if `since` is null or the source does not have the changes since that
   * revision any more, otherwise only `changes`. Throws if the store cannot be read, for example ERR_FDB_SOURCE; the caller then waits, and calls again with
   * the last revision. A source without revisions (null) yields `all` each time. `known`: the keys at `since`, for a source that can tell what has changed,
   * but not which keys have gone. `unchanged`: to be called when the store answers, and has nothing new: after a failure the status tells so.
   */
  read(
    since: string | null,
    signal: AbortSignal,
    known: KnownKeys,
    unchanged?: () => void,
  ): AsyncIterable<SourceBatch>
  /** The newest revision of the store that this process knows of, if the source has revisions. */
  readonly newest?: string | null
}
