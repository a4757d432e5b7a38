// @ts-check
/**
 * Outcomes of a client: one vocabulary for everything that judges. A request ends as `ok` or as exactly one LOSS; NOTES
 * are counted beside, and what a connection can suffer between two requests is one of them.
 *
 * | kind | what happened on the socket |
 * | --- | --- |
 * | refused | no connection: ECONNREFUSED, ENOENT, or EAGAIN (a Unix socket's full backlog) |
 * | reset | the request was sent and the connection ended without a whole answer: RST at any time, or FIN before any byte of the answer on a fresh connection |
 * | dropped | no whole answer within the deadline |
 * | raced | on a connection that had answered before: FIN or RST after we wrote and before any byte of the answer, so the server closed with our request on the way |
 * | truncated | FIN inside the answer, a stream that ends too early, a talk that ends before both ends have said so |
 * | wrong | not HTTP/1.1, or other bytes than must come; for a load also another status |
 * | denied | an answer whose status says that it was not done; only clients that look for other bytes tell it from `wrong` |
 * | closedIdle | the server closed a connection that owed nothing, without having said `Connection: close` |
 * | announced | the server said `Connection: close` on a connection that was to stay; only those that are there to stay mind |
 * | late | a right answer, but later than the bound (slow and stream requests apart) |
 * | expired | closed while idle after the `Keep-Alive: timeout=` that the server had promised: its good right |
 * | retried | a write that was answered 503 with Retry-After and sent again |
 */
export const LOSSES = /** @type {const} */ (['refused', 'reset', 'dropped', 'raced', 'truncated', 'wrong'])
export const NOTES = /** @type {const} */ (['closedIdle', 'late', 'expired', 'retried'])

/** @typedef {typeof LOSSES[number]} Loss */
/** @typedef {typeof NOTES[number]} Note */
/** The last two befall those alone that hold connections, see {@link Verdicts.report}. @typedef {Loss | Note | 'denied' | 'announced'} Kind */
/** @typedef {Record<Loss | Note, number>} Counts of a load */
/** @typedef {{ atMs: number, kind: Kind, what: string, reason: string, phase: string }} Incident */
/**
 * Counts of clients that hold connections. `closed`: the other side ended their connection, announced or not, though it was to
 * stay, or within what it said. `failed`: not opened, not answered, or denied. `wrong`: a byte was lost, repeated, changed or out
 * of order.
 * @typedef {{ opened: number, closed: number, failed: number, wrong: number, answered: number, messages: number, bytes: number, slowestMs: number }} Held
 */

/** Where the machine is too slow these come in great numbers: they may not hide what comes behind them. */
const NUMEROUS = new Set(['late', 'dropped'])

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

/** The outcomes of the clients of one process. */
export class Verdicts {
  counts = { ...noCounts(), denied: 0, announced: 0 }
  seen = { opened: 0, answered: 0, messages: 0, bytes: 0, slowestMs: 0 }
  /** The first that went wrong. @type {Incident[]} */
  incidents = []
  /** Stands in each incident from now on. */
  phase = 'start'
  #begun = performance.now()
  #most

  /** @param {number} [most] incidents that are kept */
  constructor(most = 50) {
    this.#most = most
  }

  /** @param {Kind} kind @param {string} what @param {string} reason */
  note(kind, what, reason) {
    this.counts[kind]++
    if (this.incidents.length >= (NUMEROUS.has(kind) ? this.#most / 2 : this.#most)) return
    const atMs = Math.round(performance.now() - this.#begun)
    this.incidents.push({ atMs, kind, what, reason, phase: this.phase })
  }

  /** @param {number} ms */
  took(ms) {
    this.seen.answered++
    if (ms > this.seen.slowestMs) this.seen.slowestMs = Math.round(ms)
  }

  /** @returns {Held} */
  report() {
    const { reset, raced, truncated, closedIdle, expired, announced, refused, dropped, denied, wrong } =
      this.counts
    const closed = closedIdle + expired + announced + truncated
    return { ...this.seen, closed, failed: refused + reset + raced + dropped + denied, wrong }
  }
}

const REFUSED = new Set(['ECONNREFUSED', 'ENOENT', 'EAGAIN'])

/**
 * Names the loss of a connection that ended while it owed something.
 * @param {NodeJS.ErrnoException | null} error null: FIN
 * @param {{ connected: boolean, begun: boolean, answered: number }} so far; `begun`: a byte of what is owed has come
 * @returns {Loss}
 */
export function lossOf(error, { connected, begun, answered }) {
  if (!connected && error && REFUSED.has(error.code ?? '')) return 'refused'
  if (!begun) return answered > 0 ? 'raced' : 'reset'
  return error ? 'reset' : 'truncated'
}

/** How a connection ended. @param {NodeJS.ErrnoException | null} error null: FIN */
export function ending(error) {
  return error === null ? 'FIN' : (error.code ?? error.message)
}
