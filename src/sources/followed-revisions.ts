import { json, msgpack } from '../state/codec.js'
import { defineSection } from '../state/schema.js'

/** The last revision of a source that is in the section; `id` is that of the source. */
export interface FollowedRevision {
  readonly id: string
  readonly revision: string
}

/** An entry that could not be used, with its value: a next version may be able to use it. */
export interface RefusedEntry {
  readonly reason: string
  readonly value: Uint8Array
}

/** The keys are names of followed sections. */
export const REVISIONS = 'sources'
export const revisionsSection = defineSection({ version: 1, codec: json<FollowedRevision>() })

/** The keys are names of a followed section and keys in it, see {@link refusedKey}. Secret, because the followed section may be. */
export const REFUSED = 'sources.refused'
export const refusedSection = defineSection({ version: 1, codec: msgpack<RefusedEntry>(), secret: true })

export function refusedKey(section: string, key: string): string {
  return JSON.stringify([section, key])
}

/** Returns the key in the section; null if the entry belongs to another section. */
export function keyOfRefused(section: string, refused: string): string | null {
  const [of, key] = JSON.parse(refused) as [string, string]
  return of === section ? key : null
}
