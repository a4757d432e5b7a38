import { FdbError, type FdbErrorCode } from '../errors.js'

const LEFT: ReadonlySet<FdbErrorCode> = new Set<FdbErrorCode>([
  'ERR_FDB_CHANNEL_CLOSED',
  'ERR_FDB_CHANNEL_RESET',
  'ERR_FDB_CHANNEL_TRUNCATED',
])

/** Whether an error says no more than that the peer is gone: how that shows depends on what was on its way. */
export function peerLeft(error: unknown): boolean {
  return FdbError.is(error) && LEFT.has(error.code)
}
