import { type Http1Reason, http1Code, REFUSALS, type RequestRefusalStatus } from '../errors/http1-refusals.js'
import { FdbError } from '../errors.js'

export type Side = 'request' | 'response'

export type RefusalReason = Http1Reason

export const REFUSAL_REASONS = Object.keys(REFUSALS) as RefusalReason[]

/** The relay must not forward this message. If it is a request, respond with {@link status} and close. `code` is `ERR_FDB_HTTP1_` and the reason in capitals. */
export class Http1Refusal extends FdbError {
  readonly reason: RefusalReason
  readonly status: RequestRefusalStatus | 502
  /** The position of the wrong byte: in a head the offset from the first byte of the head, in a body the index in the buffer. */
  readonly offset: number

  constructor(reason: RefusalReason, offset: number, side: Side, note = '') {
    const [status, sentence] = REFUSALS[reason]
    super(http1Code(reason), `${side} refused at byte ${offset}: ${sentence}${note}; close the connection`, {
      details: { reason, offset },
    })
    this.reason = reason
    this.status = side === 'request' ? status : 502
    this.offset = offset
  }
}

export function requestRefusal(reason: RefusalReason, offset: number): Http1Refusal {
  return new Http1Refusal(reason, offset, 'request')
}
