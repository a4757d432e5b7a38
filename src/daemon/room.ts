import { FdbError } from '../errors.js'
import type { ReadyOptions } from '../member/member-options.js'
import { fdLimits } from '../os/limits.js'
import type { Deposits } from './deposits.js'
import type { Services } from './services.js'

/** A member that comes back: its connection, its pidfd, and a watch of each of those who wait for it. */
const OF_A_MEMBER = 4
/** Of operators, of those who come to join, and of files that are read. */
const OF_OTHERS = 16

/** For a daemon that takes over, as long as the one before serves: members have nowhere else to go where there is none. */
export function checkingRoom(
  services: Pick<Services, 'expected'>,
  deposits: Pick<Deposits, 'largest' | 'demandReadable'>,
): ReadyOptions {
  const room = () => demandRoom(services.expected, deposits.largest)
  return { checks: [room, () => deposits.demandReadable()] }
}

/**
 * Throws ERR_FDB_NO_DESCRIPTORS where there are too few for what comes: members could not come back. `brought`: the most that one of them
 * brings.
 */
function demandRoom(members: number, brought: number): void {
  const { open, soft } = fdLimits()
  if (open === null || soft === null) return
  const more = members * OF_A_MEMBER + brought + OF_OTHERS
  if (open + more <= soft) return
  throw new FdbError(
    'ERR_FDB_NO_DESCRIPTORS',
    `process ${process.pid} cannot take over: it has ${open} descriptors open with those that it was given, needs ${more} more for ${members} members that come back, ` +
      `and may have ${soft}: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=) and try again; the daemon before goes on`,
    { retryable: true, details: { open, more, members, soft } },
  )
}
