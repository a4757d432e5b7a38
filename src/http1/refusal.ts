import { type Http1Reason, http1Code, REFUSALS, type RequestRefusalStatus } from '../errors/http1-refusals.js'
import { FdbError } from '../errors.js'

export type Side = 'request' | 'response'

/** The statuses of refused requests, before anything was forwarded. */
export type RefusalStatus = RequestRefusalStatus | 502

export type RefusalReason = Http1Reason

export const REFUSAL_REASONS = Object.keys(REFUSALS) as RefusalReason[]

/** A message that is not passed on. `code` is `ERR_FDB_HTTP1_` and the reason in capitals. For a request's head, answer with `status`; then close. */
export class Http1Refusal extends FdbError {
  readonly reason: RefusalReason
  /** The status for the client; always 502 for responses. Too late once a body is being sent. */
  readonly status: RefusalStatus
  /** In a head: from its first byte, however the bytes were split. In a body: the index in the buffer. */
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
