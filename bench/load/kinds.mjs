// @ts-check
/**
 * What can go wrong for a client. Each request ends as exactly one of `ok` or a LOSS; NOTES are counted beside.
 *
 * | kind | what happened on the socket |
 * | --- | --- |
 * | refused | no connection: ECONNREFUSED, ENOENT, or EAGAIN (a Unix socket's full backlog) |
 * | reset | the request was sent and the connection ended without a whole answer: RST at any time, or FIN before any byte of the answer on a fresh connection |
 * | dropped | no whole answer within the deadline |
 * | raced | on a connection that had answered before: FIN or RST after we wrote and before any byte of the answer, so the server closed with our request on the way |
 * | truncated | FIN inside the answer, or a stream that ends too early |
 * | wrong | not HTTP/1.1, or another status or body than the route must give |
 * | closedIdle | the server closed a connection that owed nothing, without having said `Connection: close` |
 * | late | a right answer, but later than the bound (slow and stream requests apart) |
 * | expired | closed while idle after the `Keep-Alive: timeout=` that the server had promised: its good right |
 * | retried | a write that was answered 503 with Retry-After and sent again |
 */
export const LOSSES = /** @type {const} */ (['refused', 'reset', 'dropped', 'raced', 'truncated', 'wrong'])
export const NOTES = /** @type {const} */ (['closedIdle', 'late', 'expired', 'retried'])

/** @typedef {typeof LOSSES[number]} Loss */
/** @typedef {typeof NOTES[number]} Note */
/** @typedef {Record<Loss | Note, number>} Counts */

/** @returns {Counts} */
export function noCounts() {
  return /** @type {Counts} */ (Object.fromEntries([...LOSSES, ...NOTES].map(kind => [kind, 0])))
}

/**
 * Requests that were lost.
 * @param {Counts} counts
 */
export function lost(counts) {
  return LOSSES.reduce((sum, kind) => sum + counts[kind], 0)
}
