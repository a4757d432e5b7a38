// @ts-check
// What the load asks of bench/proxy/upstream.mjs through a proxy. Route n leads to the group `even` or `odd`, so that an
// answer by the wrong server is wrong.

/**
 * @typedef {import('./shop.mjs').Workload} Workload
 * @typedef {import('./shop.mjs').Fault} Fault
 * @typedef {import('./answer.mjs').AnswerReader} Answer
 */

/** Of a body that is sent. */
const BODY = 4096

/**
 * @param {{ routes?: number, lines?: number }} [options]
 * @returns {Workload}
 */
export function proxyWorkload({ routes = 10_000, lines = 30 } = {}) {
  let turn = 0
  let sequence = 0
  return {
    read() {
      turn = (turn + 7919) % routes
      const route = turn
      return get(`/r/${route}`, answer => {
        const server = route % 2 === 0 ? 'even' : 'odd'
        if (answer.headers.get('x-upstream') !== server)
          return wrong(`route ${route} was answered by ${answer.headers.get('x-upstream')}`)
        return answer.body === `${route} item-${route}\n`
          ? null
          : wrong(`route ${route}: ${JSON.stringify(answer.body.slice(0, 60))}`)
      })
    },
    slow: () =>
      get('/slow', ({ body }) => (body === 'slow but sure\n' ? null : wrong(`slow: ${body.slice(0, 60)}`))),
    stream: () => get(`/stream?lines=${lines}`, ({ body }) => checkLines(body, lines)),
    write() {
      const body = `${++sequence} `.padEnd(BODY, 'x')
      return {
        method: 'POST',
        path: '/echo',
        body,
        check: answer => ok(answer, () => (answer.body === body ? null : wrong('echo: another body'))),
      }
    },
  }
}

/** @param {string} path @param {(answer: Answer) => Fault | null} check */
function get(path, check) {
  return { method: 'GET', path, check: (/** @type {Answer} */ answer) => ok(answer, () => check(answer)) }
}

/** @param {Answer} answer @param {() => Fault | null} check */
function ok(answer, check) {
  return answer.status === 200
    ? check()
    : wrong(`status ${answer.status}, wanted 200: ${answer.body.slice(0, 80)}`)
}

/**
 * @param {string} body
 * @param {number} lines
 * @returns {Fault | null}
 */
function checkLines(body, lines) {
  const got = body.split('\n').slice(0, -1)
  const bad = got.findIndex((line, index) => line !== `line ${index}`)
  if (bad >= 0) return wrong(`stream: ${JSON.stringify(got[bad]?.slice(0, 40))} where line ${bad} should be`)
  if (got.length < lines)
    return { kind: 'truncated', reason: `stream: ended after ${got.length} of ${lines} lines` }
  return got.length === lines ? null : wrong(`stream: ${got.length} lines, wanted ${lines}`)
}

/** @param {string} reason @returns {Fault} */
function wrong(reason) {
  return { kind: 'wrong', reason }
}
