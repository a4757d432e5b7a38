import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { HTTP_CONNECTIONS } from './http-connections.js'
import { describeMissing, type Internal } from './internal.js'
import { SERVER_CLOSE } from './server-close.js'
import { SERVER_CONNECTIONS } from './server-connections.js'
import { SOCKET_HANDLE } from './socket-handle.js'

/** What servers without TLS need. */
export const INTERNALS: readonly Internal[] = [
  SOCKET_HANDLE,
  SERVER_CONNECTIONS,
  SERVER_CLOSE,
  HTTP_CONNECTIONS,
]

/**
 * Tries what is not tried yet of `internals`, and returns one ERR_FDB_NODE for each that this version of Node has not, or has
 * otherwise. What needs it is done without it, as the error says; nothing is done half.
 */
export function missingInternals(internals: readonly Internal[] = INTERNALS): FdbError[] {
  return internals
    .filter(({ works }) => !works)
    .map(
      one =>
        new FdbError('ERR_FDB_NODE', describeMissing(one), {
          details: { internal: one.name, node: process.versions.node },
        }),
    )
}

/** The same of {@link INTERNALS}, each in a turn of its own: together they would hold the event loop for some milliseconds. */
export async function tellMissing(
  tell: (missing: FdbError) => void,
  internals: readonly Internal[] = INTERNALS,
): Promise<void> {
  for (const internal of internals) {
    await nextTurn()
    for (const missing of missingInternals([internal])) tell(missing)
  }
}
