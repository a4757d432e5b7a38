// @ts-check
// The requests of a load for docs/examples/shop.
import { get, ok, same, slowAndStream, wrong } from './workload.mjs'

/** @typedef {import('./workload.mjs').Fault} Fault */

/** Only these routes are written to, one write at a time each. */
const WRITABLE = 64

/**
 * @param {{ routes?: number, lines?: number, run?: string }} [options]
 * @returns {import('./workload.mjs').Workload}
 */
export function shopWorkload({ routes = 10_000, lines = 30, run = Date.now().toString(36) } = {}) {
  const writable = Math.min(WRITABLE, routes)
  /** Sequence of the newest acknowledged write, and of the newest one sent, by route; 0 is none. */
  const acknowledged = new Array(writable).fill(0)
  const sent = new Array(writable).fill(0)
  const busy = new Array(writable).fill(false)
  let sequence = 0
  let turn = 0
  let writeTurn = 0

  return {
    read() {
      // A stride that is coprime to most sizes visits every route.
      turn = (turn + 7919) % routes
      const route = turn
      const known = route < writable ? acknowledged[route] : 0
      return get(`/r/${route}`, body =>
        route < writable
          ? checkWritten(body, route, run, known, sent[route])
          : same(`route ${route}`, body, `${route} item-${route}\n`),
      )
    },
    ...slowAndStream(lines),
    write() {
      const route = writeTurn++ % writable
      if (busy[route]) return null
      const mine = ++sequence
      busy[route] = true
      sent[route] = mine
      return {
        method: 'PUT',
        path: `/r/${route}`,
        body: `w${run}.${mine}`,
        check: answer =>
          ok(answer, () => {
            acknowledged[route] = mine
            return null
          }),
        // A write of unknown fate may be applied at any later time: that route is left alone from then on.
        settled: known => {
          busy[route] = !known
        },
      }
    },
  }
}

/**
 * @param {string} body
 * @param {number} route
 * @param {string} run
 * @param {number} atLeast
 * @param {number} atMost
 */
function checkWritten(body, route, run, atLeast, atMost) {
  const match = /^(\d+) (?:(item-\d+)|w(\w+)\.(\d+))\n$/.exec(body)
  if (!match || Number(match[1]) !== route)
    return wrong(`route ${route}: ${JSON.stringify(body.slice(0, 60))}`)
  const value = match[3] === run ? Number(match[4]) : 0
  if (value < atLeast)
    return wrong(`route ${route}: acknowledged write ${atLeast} is lost, got ${body.trim()}`)
  if (value > atMost) return wrong(`route ${route}: write ${value} was never sent (newest ${atMost})`)
  return null
}
