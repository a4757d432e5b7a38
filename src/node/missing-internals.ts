import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../errors.js'
import { DATAGRAM_READING } from './datagram-reading.js'
import { HTTP_CONNECTIONS } from './http-connections.js'
import { INFLATE_WINDOW } from './inflate-window.js'
import { describeMissing, type Internal, isTested } from './internal.js'
import { TLS_WRITES } from './openssl.js'
import { REBUILT_REQUEST } from './rebuilt-request.js'
import { SERVER_CLOSE, SERVER_CONNECTIONS } from './server-connections.js'
import { SOCKET_HANDLE, SOCKET_TIMEOUT } from './socket-handle.js'
import { UNFINISHED_ANSWER } from './unfinished-answer.js'
import { UNSENT_BYTES } from './unsent-bytes.js'

/** Internals that every server without TLS needs. */
const NEEDED_BY_ALL: readonly Internal[] = [SOCKET_HANDLE, SERVER_CONNECTIONS, SERVER_CLOSE]
/** Internals that only some servers need, and that are slow to test. */
const NEEDED_BY_SOME: readonly Internal[] = [HTTP_CONNECTIONS, SOCKET_TIMEOUT]
/** Internals that only moving WebSockets need. */
const NEEDED_BY_WEB_SOCKETS: readonly Internal[] = [REBUILT_REQUEST, INFLATE_WINDOW, UNSENT_BYTES]
/** Internals that servers without TLS need. */
export const INTERNALS: readonly Internal[] = [
  ...NEEDED_BY_ALL,
  ...NEEDED_BY_SOME,
  ...NEEDED_BY_WEB_SOCKETS,
  UNFINISHED_ANSWER,
  DATAGRAM_READING,
]

/**
 * Tests `internals`, and returns an ERR_FDB_NODE for each that does not work on this version of Node. The features that need it then use a fallback,
 * which the error describes.
 */
export function missingInternals(internals: readonly Internal[] = INTERNALS): FdbError[] {
  return internals.filter(({ works }) => !works).map(errorOf)
}

/**
 * Calls `report` for each of {@link INTERNALS} that does not work. On a version of Node on which fd-broker was not tested, tests the internals of `soon`
 * now, one per turn of the event loop, because together they take milliseconds. Other internals are tested at their first use, and reported once per
 * `owner`.
 */
export async function reportMissing(
  owner: object,
  report: (missing: FdbError) => void,
  {
    soon = NEEDED_BY_ALL,
    late = [...NEEDED_BY_SOME, TLS_WRITES],
    node = process.versions.node,
  }: { soon?: readonly Internal[]; late?: readonly Internal[]; node?: string } = {},
): Promise<void> {
  for (const internal of [...soon, ...late]) internal.whenMissing(owner, () => report(errorOf(internal)))
  if (isTested(node)) return
  for (const internal of soon) {
    await nextTurn()
    missingInternals([internal])
  }
}

function errorOf(internal: Internal): FdbError {
  const details = { internal: internal.name, node: process.versions.node }
  return new FdbError('ERR_FDB_NODE', describeMissing(internal), { details })
}
