// @ts-check
// The wait of other clients while the proxy is upgraded: p99 of an open-loop load inside and outside the windows of upgrades. The
// window is that of bench/demo.mjs: from the start of the new process until the end of the old one. Medians of upgrades and of what lies before each, since
// a machine that does other things as well spoils a few. The load and the servers are in C: they share the processors with the proxy, and would else
// take most of them.
import { startEdge } from './edge.mjs'
import { OpenLoad } from './open-load.mjs'
import { cpu, rest } from './processes.mjs'

/**
 * @typedef {{ inside: number[], outside: number[], perSecond: number, lost: number, why: string, done: number, proxyUs: number, othersUs: number,
 *   lagMs: number }} Windows p99 in milliseconds of each, CPU of a request between upgrades in microseconds
 * @param {{ bare: import('./bare.mjs').Bare, folder: string, cli: string, upgrades: number, rate: number, everyMs: number, routes: number }} options
 * @returns {Promise<Windows>}
 */
export async function windows({ bare, folder, cli, upgrades, rate, everyMs, routes }) {
  /** @type {number[]} */
  const servers = []
  const { app, end } = await startEdge({
    routes,
    naive: false,
    cli,
    async server() {
      const { port, pids, end } = await bare.start('server')
      servers.push(...pids())
      return { url: `http://127.0.0.1:${port}`, end }
    },
  })
  const port = Number(new URL(app.target).port)
  const load = new OpenLoad({ folder, port, rate, connections: 32, routes, fresh: 100 })
  try {
    let done = 0
    let proxyUs = 0
    let othersUs = 0
    await rest(2000)
    for (let i = 0; i < upgrades; i++) {
      await load.part('outside')
      const others = [load.pid, ...servers]
      const before = { proxy: cpu([app.pid]), others: cpu(others) }
      await rest(everyMs)
      proxyUs += cpu([app.pid]) - before.proxy
      othersUs += cpu(others) - before.others
      await load.part('inside')
      const ms = await app.replace(pid => load.pids.has(pid))
      if (ms !== null) done++
      await app.windowEnds()
      await load.part(null)
      await rest(500)
    }
    const { inside, outside, ...figures } = await load.stop()
    const requests = (upgrades * everyMs * rate) / 1000
    return {
      ...figures,
      inside: inside.each,
      outside: outside.each,
      done,
      proxyUs: proxyUs / requests,
      othersUs: othersUs / requests,
    }
  } finally {
    load.kill()
    await app.end()
    end()
  }
}
