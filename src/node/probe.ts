import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { HTTP_CONNECTIONS } from './http-connections.js'
import { describeMissing, type Internal } from './internal.js'
import { SERVER_CLOSE, SERVER_CONNECTIONS } from './server-connections.js'
import { SOCKET_HANDLE } from './socket-handle.js'
import { SOCKET_TIMEOUT } from './socket-timeout.js'

/** Internals that servers of every kind without TLS need. */
const SOON: readonly Internal[] = [SOCKET_HANDLE, SERVER_CONNECTIONS, SERVER_CLOSE]
/** Internals that only some servers need, and that take long to try. */
const LATE: readonly Internal[] = [HTTP_CONNECTIONS, SOCKET_TIMEOUT]
/** Internals that servers without TLS need. */
export const INTERNALS: readonly Internal[] = [...SOON, ...LATE]

/**
 * Tries those of `internals` that are not tried yet, and returns one ERR_FDB_NODE for each that this version of Node lacks or has
 * otherwise. A feature that needs it works without it, as the error says, and never half.
 */
export function missingInternals(internals: readonly Internal[] = INTERNALS): FdbError[] {
  return internals.filter(({ works }) => !works).map(errorOf)
}

/**
 * The same for {@link INTERNALS}. Those that every server needs are tried now, each in a turn of its own: together they would hold the
 * event loop for some milliseconds. The others are tried when they are needed, and told then, once for each `who`.
 */
export async function tellMissing(
  who: object,
  tell: (missing: FdbError) => void,
  { soon = SOON, late = LATE }: { soon?: readonly Internal[]; late?: readonly Internal[] } = {},
): Promise<void> {
  for (const internal of late) internal.whenMissing(who, () => tell(errorOf(internal)))
  for (const internal of soon) {
    await nextTurn()
    for (const missing of missingInternals([internal])) tell(missing)
  }
}

function errorOf(internal: Internal): FdbError {
  const details = { internal: internal.name, node: process.versions.node }
  return new FdbError('ERR_FDB_NODE', describeMissing(internal), { details })
}
