// @ts-check
/**
 * What can befall a client.
 *
 * | | |
 * | --- | --- |
 * | closed | its connection was ended by the other side, announced or not, though it was to stay |
 * | failed | not opened, not answered in time, or another answer than it must be |
 * | wrong | a byte was lost, repeated, changed or out of order |
 *
 * @typedef {'closed' | 'failed' | 'wrong'} Verdict
 * @typedef {{ atMs: number, verdict: Verdict, what: string, reason: string }} Incident
 * @typedef {{ opened: number, closed: number, failed: number, wrong: number, answered: number, messages: number, bytes: number, slowestMs: number }} Counts
 */

const INCIDENTS = 50

/** What became of the clients of one kind. */
export class Verdicts {
  /** @type {Counts} */
  counts = { opened: 0, closed: 0, failed: 0, wrong: 0, answered: 0, messages: 0, bytes: 0, slowestMs: 0 }
  /** @type {Incident[]} the first ones */
  incidents = []
  /** Time since the start of the process stands in each. @type {string} */
  kind

  /** @param {string} kind */
  constructor(kind) {
    this.kind = kind
  }

  /** @param {Verdict} verdict @param {string} what @param {string} reason */
  note(verdict, what, reason) {
    this.counts[verdict]++
    if (this.incidents.length < INCIDENTS)
      this.incidents.push({ atMs: Date.now(), verdict, what: `${this.kind} ${what}`, reason })
  }

  /** @param {number} ms */
  took(ms) {
    this.counts.answered++
    if (ms > this.counts.slowestMs) this.counts.slowestMs = Math.round(ms)
  }
}

/** @param {NodeJS.ErrnoException | null} error of a socket; null: FIN */
export function ending(error) {
  return error === null ? 'FIN' : (error.code ?? error.message)
}
