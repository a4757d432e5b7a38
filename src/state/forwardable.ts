import { FdbError } from '../errors.js'
import { DEFAULT_LIMITS, mostBodyBytes } from './limits.js'
import type { Drawn } from './write-queue.js'

/** A message has 16 MiB at most: so much of it is left for a part, which is never divided. */
const MOST_PART_BYTES = mostBodyBytes(DEFAULT_LIMITS)
/** What an update has read is in one message, which has 32,768 fields at most. */
const MOST_READS = 32_000
const MOST_READ_BYTES = 8 * 1024 * 1024
/** Of a read, beside its names. */
const READ_BYTES = 32

/** Throws ERR_FDB_STATE_LIMIT for a change that no message brings to the process that writes. */
export function checkForwardable({ parts, reads }: Pick<Drawn, 'parts' | 'reads'>): void {
  for (const { length } of parts)
    if (length > MOST_PART_BYTES) throw unfit('has', length, MOST_PART_BYTES, 'bytes in one record')
  if (reads.length > MOST_READS) throw unfit('reads', reads.length, MOST_READS, 'entries')
  let bytes = 0
  for (const { section, key } of reads)
    bytes += Buffer.byteLength(section.name) + Buffer.byteLength(key) + READ_BYTES
  if (bytes > MOST_READ_BYTES) throw unfit('reads entries with', bytes, MOST_READ_BYTES, 'bytes of keys')
}

function unfit(verb: string, got: number, most: number, of: string): FdbError {
  return new FdbError(
    'ERR_FDB_STATE_LIMIT',
    `a change that ${verb} ${got} ${of} cannot be made through the process that serves now: the limit is ${most}; make several of it, or make it there`,
    { details: { limit: 'message', most, got } },
  )
}
