// @ts-check
import { Histogram } from './histogram.mjs'
import { lost, noCounts } from './verdicts.mjs'

/**
 * Where a request falls that is looked at by itself: into the window of an upgrade, with any part of it, or wholly between two.
 * @typedef {'inside' | 'outside'} Part
 *
 * @typedef {object} TallyReport
 * @property {string} name
 * @property {number} seconds
 * @property {number} sent requests written or tried
 * @property {number} answered right answers
 * @property {number} lost sum of the losses
 * @property {import('./verdicts.mjs').Counts} counts
 * @property {number} perSecond right answers a second
 * @property {number} worstGapMs the longest time without a right answer
 * @property {{ p50: number, p99: number, max: number }} latencyMs from the intended start, without slow and stream requests
 * @property {Record<Part, { count: number, p99: number }>} parts of the same requests, those that fall into either
 * @property {Record<string, number>} generations right answers by `x-generation/x-pid`
 */

/** Counts since one moment: for the whole run, or for one phase of it. */
export class Tally {
  sent = 0
  answered = 0
  counts = noCounts()
  /** @type {Map<string, number>} */
  #generations = new Map()
  #latency = new Histogram()
  #parts = { inside: new Histogram(), outside: new Histogram() }
  #begun
  #lastAnswer
  #worstGap = 0

  /**
   * @param {string} name
   * @param {number} now
   */
  constructor(name, now) {
    this.name = name
    this.#begun = now
    this.#lastAnswer = now
  }

  /**
   * @param {number} now
   * @param {string} generation
   * @param {number | null} latencyMs null where the answer is meant to be slow
   * @param {Part | null} part null: neither
   */
  answer(now, generation, latencyMs, part) {
    this.answered++
    this.#worstGap = Math.max(this.#worstGap, now - this.#lastAnswer)
    this.#lastAnswer = now
    this.#generations.set(generation, (this.#generations.get(generation) ?? 0) + 1)
    if (latencyMs === null) return
    this.#latency.add(latencyMs)
    if (part !== null) this.#parts[part].add(latencyMs)
  }

  /**
   * @param {number} now
   * @param {boolean} arriving requests are still being sent, so that the time since the last answer counts as a gap
   * @returns {TallyReport}
   */
  report(now, arriving) {
    const seconds = (now - this.#begun) / 1000
    const gap =
      arriving || this.answered === 0 ? Math.max(this.#worstGap, now - this.#lastAnswer) : this.#worstGap
    return {
      name: this.name,
      seconds: round(seconds),
      sent: this.sent,
      answered: this.answered,
      lost: lost(this.counts),
      counts: { ...this.counts },
      perSecond: round(this.answered / Math.max(seconds, 0.001)),
      worstGapMs: round(gap),
      latencyMs: {
        p50: round(this.#latency.quantile(0.5)),
        p99: round(this.#latency.quantile(0.99)),
        max: round(this.#latency.max),
      },
      parts: { inside: partOf(this.#parts.inside), outside: partOf(this.#parts.outside) },
      generations: Object.fromEntries(this.#generations),
    }
  }
}

/** @param {Histogram} latency */
function partOf(latency) {
  return { count: latency.count, p99: round(latency.quantile(0.99)) }
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 100) / 100
}
