// @ts-check
// Keep-alive connections that sit idle and are used now and then. One that is closed while nothing is asked is seen at once.
import { Connection } from './connection.mjs'
import { numbered } from './numbered.mjs'

const TICK_MS = 10
const OPENING_AT_ONCE = 64
/** At the end: each has a connection to the server meanwhile. */
const ASKED_AT_ONCE = 200

/** One of them, with one numbered request at a time. */
class Sitter {
  #id
  #number = 0
  #askedAt = 0
  #verdicts
  #settled
  #connection

  /**
   * Asks at once.
   * @param {number} id
   * @param {import('node:net').NetConnectOpts} target
   * @param {import('./verdicts.mjs').Verdicts} verdicts
   * @param {() => void} settled after each answer, and at the end
   */
  constructor(id, target, verdicts, settled) {
    this.#id = id
    this.#verdicts = verdicts
    this.#settled = settled
    this.#connection = new Connection(
      target,
      (kind, reason) => this.#end(kind ?? 'announced', reason),
      () => verdicts.seen.opened++,
    )
    this.ask()
  }

  get open() {
    return !this.#connection.ended
  }

  get busy() {
    return this.#connection.busy
  }

  ask() {
    if (!this.#connection.usable) return
    this.#askedAt = performance.now()
    const { path, check } = numbered(this.#id, ++this.#number)
    this.#connection.send(`GET ${path} HTTP/1.1\r\nHost: plain.test\r\n\r\n`, ({ kind, reason, answer }) => {
      if (kind !== null) return this.#end(kind, reason)
      const fault = answer.status === 200 ? check(answer) : null
      if (answer.status !== 200) this.#end('denied', `status ${answer.status}: ${answer.body.slice(0, 60)}`)
      else if (fault) this.#end(fault.kind, fault.reason)
      else if (answer.announcesClose) this.#end('announced', 'its end was announced')
      else {
        this.#verdicts.took(performance.now() - this.#askedAt)
        this.#settled()
      }
    })
  }

  /** @param {number} ms how long it may wait for its answer */
  expire(ms) {
    if (this.busy && performance.now() - this.#askedAt >= ms) this.#connection.expire()
  }

  /** Not the other side's doing. */
  close() {
    this.#connection.close()
  }

  /** @param {import('./verdicts.mjs').Kind} kind @param {string} reason */
  #end(kind, reason) {
    this.#verdicts.note(kind, `idle ${this.#id}`, `request ${this.#number}: ${reason}`)
    this.close()
    this.#settled()
  }
}

/**
 * @param {object} options
 * @param {import('node:net').NetConnectOpts} options.target
 * @param {number} options.count
 * @param {number} [options.everyMs] each is used once in this time
 * @param {number} [options.deadlineMs] for an answer
 * @param {import('./verdicts.mjs').Verdicts} options.verdicts
 */
export function startIdle({ target, count, everyMs = 20_000, deadlineMs = 10_000, verdicts }) {
  /** @type {Sitter[]} */
  const all = []
  let opening = 0
  let credit = 0
  let next = 0
  let last = performance.now()

  /** Several at a time, so that no backlog is full. */
  function open() {
    while (opening < OPENING_AT_ONCE && all.length < count) {
      opening++
      let first = true
      const settled = () => {
        if (!first) return
        first = false
        opening--
        open()
      }
      all.push(new Sitter(all.length, target, verdicts, settled))
    }
  }
  open()

  const timer = setInterval(() => {
    const now = performance.now()
    credit += ((now - last) / everyMs) * all.length
    last = now
    for (; credit >= 1; credit--) {
      all[next++ % all.length]?.ask()
      // Half a round later its answer has long come.
      all[(next + (all.length >> 1)) % all.length]?.expire(deadlineMs)
    }
  }, TICK_MS)

  return {
    get ready() {
      return all.length === count && opening === 0
    },
    get open() {
      return all.reduce((sum, { open }) => sum + Number(open), 0)
    },
    /** Asks on every connection once more; an answer shows that it is there. */
    async stop() {
      clearInterval(timer)
      for (let at = 0; at < all.length; at += ASKED_AT_ONCE) {
        const some = all.slice(at, at + ASKED_AT_ONCE)
        for (const each of some) each.ask()
        const until = performance.now() + deadlineMs
        while (performance.now() < until && some.some(({ busy }) => busy))
          await new Promise(resolve => setTimeout(resolve, 5))
        for (const each of some) each.expire(0)
      }
      for (const each of all) each.close()
    },
  }
}
