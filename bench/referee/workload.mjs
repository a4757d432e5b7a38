// @ts-check
/**
 * The requests of a load, and the right answer to each. A workload is any object of this shape; requests are made when they are
 * sent, so that a check knows what had been acknowledged by then.
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
 * @property {() => Request | null} write null when nothing can be written now
 */

/** The answer must have status 200 and pass this. @param {Answer} answer @param {(body: string) => Fault | null} check @returns {Fault | null} */
export function ok(answer, check) {
  return answer.status === 200
    ? check(answer.body)
    : wrong(`status ${answer.status}, wanted 200: ${answer.body.slice(0, 80)}`)
}

/** @param {string} path @param {(body: string, answer: Answer) => Fault | null} check @returns {Request} */
export function get(path, check) {
  return { method: 'GET', path, check: answer => ok(answer, body => check(body, answer)) }
}

/** @param {string} what @param {string} body @param {string} wanted */
export function same(what, body, wanted) {
  return body === wanted ? null : wrong(`${what}: ${JSON.stringify(body.slice(0, 60))}`)
}

/** Requests that docs/examples/shop and bench/proxy/upstream.mjs both serve. @param {number} lines of a stream */
export function slowAndStream(lines) {
  return {
    slow: () => get('/slow', body => same('slow', body, 'slow but sure\n')),
    stream: () => get(`/stream?lines=${lines}`, body => checkLines(body, lines)),
  }
}

/** @param {string} body @param {number} lines @returns {Fault | null} */
function checkLines(body, lines) {
  const got = body.split('\n').slice(0, -1)
  const bad = got.findIndex((line, index) => line !== `line ${index}`)
  if (bad >= 0) return wrong(`stream: ${JSON.stringify(got[bad]?.slice(0, 40))} where line ${bad} should be`)
  if (got.length < lines)
    return { kind: 'truncated', reason: `stream: ended after ${got.length} of ${lines} lines` }
  return got.length === lines ? null : wrong(`stream: ${got.length} lines, wanted ${lines}`)
}

/** @param {string} reason @returns {Fault} */
export function wrong(reason) {
  return { kind: 'wrong', reason }
}
