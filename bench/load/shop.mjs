// @ts-check
/**
 * What the load asks of examples/shop and what each answer must say. A workload is any object of this shape; requests are
 * made when they are sent, so that a check knows what had been acknowledged by then.
 *
 * @typedef {import('./answer.mjs').AnswerReader} Answer
 * @typedef {{ kind: 'wrong' | 'truncated', reason: string }} Fault
 * @typedef {object} Request
 * @property {string} method
 * @property {string} path
 * @property {string} [body]
 * @property {(answer: Answer) => Fault | null} check
 * @property {(known: boolean) => void} [settled] after the last try: is it known whether it was applied?
 * @typedef {object} Workload
 * @property {() => Request} read
 * @property {() => Request} slow
 * @property {() => Request} stream
 * @property {() => Request | null} write null when no route is free to be written
 */

/** Only these routes are written to, one write at a time each. */
const WRITABLE = 64

/**
 * @param {{ routes?: number, lines?: number, run?: string }} [options]
 * @returns {Workload}
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

  /** @param {Answer} answer @param {(body: string) => Fault | null} check @returns {Fault | null} */
  const ok = (answer, check) =>
    answer.status === 200
      ? check(answer.body)
      : wrong(`status ${answer.status}, wanted 200: ${answer.body.slice(0, 80)}`)

  return {
    read() {
      // A stride that is coprime to most sizes visits every route.
      turn = (turn + 7919) % routes
      const route = turn
      const known = route < writable ? acknowledged[route] : 0
      return {
        method: 'GET',
        path: `/r/${route}`,
        check: answer =>
          ok(answer, body => {
            if (route < writable) return checkWritten(body, route, run, known, sent[route])
            return body === `${route} item-${route}\n`
              ? null
              : wrong(`route ${route}: ${JSON.stringify(body.slice(0, 60))}`)
          }),
      }
    },
    slow: () => ({
      method: 'GET',
      path: '/slow',
      check: answer =>
        ok(answer, body => (body === 'slow but sure\n' ? null : wrong(`slow: ${body.slice(0, 60)}`))),
    }),
    stream: () => ({
      method: 'GET',
      path: `/stream?lines=${lines}`,
      check: answer => ok(answer, body => checkLines(body, lines)),
    }),
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

/**
 * @param {string} body
 * @param {number} lines
 * @returns {Fault | null}
 */
function checkLines(body, lines) {
  const got = body.split('\n')
  got.pop()
  const missing = got.findIndex((line, index) => line !== `line ${index}`)
  if (missing >= 0)
    return wrong(`stream: ${JSON.stringify(got[missing]?.slice(0, 40))} where line ${missing} should be`)
  if (got.length < lines)
    return { kind: 'truncated', reason: `stream: ended after ${got.length} of ${lines} lines` }
  return got.length === lines ? null : wrong(`stream: ${got.length} lines, wanted ${lines}`)
}

/** @param {string} reason @returns {Fault} */
function wrong(reason) {
  return { kind: 'wrong', reason }
}
