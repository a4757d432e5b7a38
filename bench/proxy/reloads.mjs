// @ts-check
// The wait of other clients while the proxy reads a large configuration again: p99 of an open-loop load during that, and at other times.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startEdge } from './edge.mjs'
import { OpenLoad } from './open-load.mjs'
import { rest } from './processes.mjs'

const DONE = 'the configuration was read again'
const LOOK_MS = 20
const MOST_MS = 60_000

/**
 * Each reload leads all `routes` to the other server.
 * @typedef {{ inside: number, outside: number, count: number, lost: number, why: string, ms: number[], lagMs: number }} Reloads p99 in milliseconds, of `count`
 *   requests; `ms`: how long each reload took
 * @param {{ bare: import('./bare.mjs').Bare, folder: string, reloads: number, rate: number, everyMs: number, routes: number }} options
 * @returns {Promise<Reloads>}
 */
export async function reloads({ bare, folder, reloads, rate, everyMs, routes }) {
  const { app, end } = await startEdge({
    routes,
    naive: false,
    inFile: true,
    logLevel: 'info',
    async server() {
      const { port, end } = await bare.start('server')
      return { url: `http://127.0.0.1:${port}`, end }
    },
  })
  const port = Number(new URL(app.target).port)
  const load = new OpenLoad({ folder, port, rate, connections: 32, routes: 1000, fresh: 100 })
  const file = join(app.folder, 'edge.json')
  const told = () => app.output.split(DONE).length - 1
  /** @type {number[]} */
  const ms = []
  try {
    await rest(2000)
    for (let i = 0; i < reloads; i++) {
      const config = JSON.parse(readFileSync(file, 'utf8'))
      for (const route of config.routes)
        if (route.path.startsWith('/r/')) route.upstream = route.upstream === 'even' ? 'odd' : 'even'
      writeFileSync(file, JSON.stringify(config))
      await load.part('outside')
      await rest(everyMs)
      await load.part('inside')
      const started = performance.now()
      process.kill(app.pid, 'SIGHUP')
      while (told() <= i && performance.now() - started < MOST_MS) await rest(LOOK_MS)
      ms.push(performance.now() - started)
      await load.part(null)
      await rest(500)
    }
    const { inside, outside, lost, why, lagMs } = await load.stop()
    return { inside: inside.p99, outside: outside.p99, count: inside.count, lost, why, ms, lagMs }
  } finally {
    load.kill()
    await app.end()
    end()
  }
}
