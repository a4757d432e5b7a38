// @ts-check
// Keep-alive connections that sit idle and are used now and then. One that is closed while nothing is asked is seen at once.
import { RequestConnection } from './request-connection.mjs'

const TICK_MS = 10
const OPENING_AT_ONCE = 64
/** At the end: each has a connection to the server meanwhile. */
const ASKED_AT_ONCE = 200

/**
 * @param {object} options
 * @param {import('node:net').TcpNetConnectOpts} options.target
 * @param {number} options.count
 * @param {number} [options.everyMs] each is used once in this time
 * @param {number} [options.deadlineMs] for an answer
 * @param {import('./verdicts.mjs').Verdicts} options.verdicts
 */
export function startIdle({ target, count, everyMs = 20_000, deadlineMs = 10_000, verdicts }) {
  /** @type {RequestConnection[]} */
  const all = []
  let opening = 0
  let credit = 0
  let next = 0
  let last = performance.now()

  /** Several at a time, so that no backlog is full. */
  function open() {
    while (opening < OPENING_AT_ONCE && all.length < count) {
      opening++
      let settled = false
      const settle = () => {
        if (settled) return
        settled = true
        opening--
        open()
      }
      const connection = new RequestConnection({
        id: all.length,
        target,
        verdicts,
        opened: () => connection.ask(),
        answered: (_due, reply) => {
          if (reply.announcesClose) connection.end('closed', 'its end was announced')
          settle()
        },
        gone: settle,
      })
      all.push(connection)
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
      return all.reduce((sum, { state }) => sum + (state === 'gone' ? 0 : 1), 0)
    },
    /** Every one is asked once more; whoever is answered is there. */
    async stop() {
      clearInterval(timer)
      for (let at = 0; at < all.length; at += ASKED_AT_ONCE) {
        const some = all.slice(at, at + ASKED_AT_ONCE)
        for (const each of some) each.ask()
        const until = performance.now() + deadlineMs
        while (performance.now() < until && some.some(({ state }) => state === 'asked'))
          await new Promise(resolve => setTimeout(resolve, 5))
        for (const each of some) each.expire(0)
      }
      for (const each of all) each.close()
    },
  }
}
