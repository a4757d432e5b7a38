import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { HTTP_CONNECTIONS } from './http-connections.js'
import { describeMissing, type Internal } from './internal.js'
import { SERVER_CLOSE, SERVER_CONNECTIONS } from './server-connections.js'
import { SOCKET_HANDLE } from './socket-handle.js'
import { SOCKET_TIMEOUT } from './socket-timeout.js'

/** Internals that every server without TLS needs. */
const NEEDED_BY_ALL: readonly Internal[] = [SOCKET_HANDLE, SERVER_CONNECTIONS, SERVER_CLOSE]
/** Internals that only some servers need, and that are slow to test. */
const NEEDED_BY_SOME: readonly Internal[] = [HTTP_CONNECTIONS, SOCKET_TIMEOUT]
/** Internals that servers without TLS need. */
export const INTERNALS: readonly Internal[] = [...NEEDED_BY_ALL, ...NEEDED_BY_SOME]

/**
 * Tests `internals`, and returns an ERR_FDB_NODE for each that does not work on this version of Node. The features that need it then use a fallback,
 * which the error describes.
 */
export function missingInternals(internals: readonly Internal[] = INTERNALS): FdbError[] {
  return internals.filter(({ works }) => !works).map(errorOf)
}

/**
 * Calls `report` for each of {@link INTERNALS} that does not work. Tests the internals of `soon` now, one per turn of the event loop, because together
 * they take milliseconds. Tests those of `late` at their first use, and reports each once per `owner`.
 */
export async function reportMissing(
  owner: object,
  report: (missing: FdbError) => void,
  {
    soon = NEEDED_BY_ALL,
    late = NEEDED_BY_SOME,
  }: { soon?: readonly Internal[]; late?: readonly Internal[] } = {},
): Promise<void> {
  for (const internal of late) internal.whenMissing(owner, () => report(errorOf(internal)))
  for (const internal of soon) {
    await nextTurn()
    for (const missing of missingInternals([internal])) report(missing)
  }
}

function errorOf(internal: Internal): FdbError {
  const details = { internal: internal.name, node: process.versions.node }
  return new FdbError('ERR_FDB_NODE', describeMissing(internal), { details })
}
