import { FdbError } from '../errors.js'

/** What one head may cost. Reaching a limit is fine, one more is refused. */
export interface HeadLimits {
  /** Bytes from the first one to the last CRLF, an empty line in front included. */
  headBytes: number
  /** Field lines. */
  fields: number
  /** Bytes of the request target. */
  targetBytes: number
}

export const DEFAULT_HEAD_LIMITS: Readonly<HeadLimits> = {
  headBytes: 16 * 1024,
  fields: 100,
  targetBytes: 8 * 1024,
}

/** Fills in the defaults and checks the numbers. */
export function headLimits(limits: Partial<HeadLimits> = {}): Readonly<HeadLimits> {
  const all = { ...DEFAULT_HEAD_LIMITS, ...limits }
  for (const [name, value] of Object.entries(all)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new FdbError(
        'ERR_FDB_HTTP1_LIMIT',
        `the limit ${name} is ${value}: it must be a positive integer, leave it out for the default`,
        { details: { name, got: value } },
      )
    }
  }
  return all
}
