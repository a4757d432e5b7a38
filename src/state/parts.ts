import { mostBodyBytes, type StateLimits } from './limits.js'
import type { PendingWrite } from './write-queue.js'

/** The most changes of one part of a bulk, as they are encoded. */
export const PART_CHANGES = 64
/** A record of a large bulk is closed with so many bytes. */
const RECORD_BYTES = 32 * 1024
/** More, in one part or several, and it is large: it takes several records, and several turns of the event loop. */
const LARGE_BYTES = 64 * 1024
const LARGE_PARTS = 16

/** An update is not, whatever the schemas that come with one of another process: it is one record, made in its turn. */
export function isLarge({ parts, bytes, draw }: PendingWrite, limits: StateLimits): boolean {
  if (draw !== undefined) return false
  const most = Math.min(LARGE_BYTES, mostBodyBytes(limits))
  return parts.length > 1 && (bytes > most || parts.length > Math.min(LARGE_PARTS, mostParts(limits)))
}

function mostParts({ changesPerRecord }: StateLimits): number {
  return Math.max(1, Math.floor(changesPerRecord / PART_CHANGES))
}

/** The parts of a large bulk, as many together as make one record. */
export function* recordsOfParts(
  parts: readonly Uint8Array[],
  limits: StateLimits,
): Generator<{ parts: Uint8Array[]; index: number; last: boolean }> {
  const most = Math.min(LARGE_PARTS, mostParts(limits))
  const mostBytes = Math.min(RECORD_BYTES, mostBodyBytes(limits))
  let index = 0
  for (let from = 0; from < parts.length; index++) {
    let end = from + 1
    let bytes = parts[from]!.length
    while (end < parts.length && end - from < most && bytes + parts[end]!.length <= mostBytes) {
      bytes += parts[end++]!.length
    }
    yield { parts: parts.slice(from, end), index, last: end === parts.length }
    from = end
  }
}
