// @ts-check
// The requests of a load for bench/proxy/upstream.mjs through a proxy. Route n leads to the group `even` or `odd`, so that an
// answer by the wrong server is wrong.
import { get, ok, same, slowAndStream, wrong } from './workload.mjs'

/** The size of a sent body. */
const BODY = 4096

/**
 * @param {{ routes?: number, lines?: number }} [options]
 * @returns {import('./workload.mjs').Workload}
 */
export function proxyWorkload({ routes = 10_000, lines = 30 } = {}) {
  let turn = 0
  let sequence = 0
  return {
    read() {
      turn = (turn + 7919) % routes
      const route = turn
      return get(`/r/${route}`, (body, { headers }) => {
        const server = route % 2 === 0 ? 'even' : 'odd'
        if (headers.get('x-upstream') !== server)
          return wrong(`route ${route} was answered by ${headers.get('x-upstream')}`)
        return same(`route ${route}`, body, `${route} item-${route}\n`)
      })
    },
    ...slowAndStream(lines),
    write() {
      const body = `${++sequence} `.padEnd(BODY, 'x')
      return {
        method: 'POST',
        path: '/echo',
        body,
        check: answer => ok(answer, came => (came === body ? null : wrong('echo: another body'))),
      }
    },
  }
}
