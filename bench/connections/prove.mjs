// @ts-check
// Clients of several kinds hold their connections while the proxy is upgraded again and again by processes that are unrelated
// to each other, under other load. Nothing here judges: it says what was.
import { setTimeout as rest } from 'node:timers/promises'
import { until } from '../app.mjs'
import { spawnClients } from '../referee/remote.mjs'
import { status } from '../status.mjs'
import { hasEnded } from '../unrelated.mjs'
import { openScene } from './scene.mjs'

const READY_MS = 60_000
const GONE_MS = 20_000
/** A moment's lines are in the file by then. */
const WRITTEN_MS = 100

/**
 * @typedef {import('../referee/remote.mjs').Kind} Kind
 * @typedef {import('../referee/remote.mjs').ClientsReport} ClientsReport
 * @typedef {import('../referee/remote.mjs').Span} Span
 * @typedef {import('./scene.mjs').Delays} Delays
 * @typedef {{ kind: Kind } & Omit<import('../referee/remote.mjs').ClientsOptions, 'port'>} ClientsOf
 *
 * @typedef {object} Upgrade times in ms after the commit; null: it has not come to that
 * @property {string} name
 * @property {number} pid of the new process
 * @property {number | null} tookMs from its launch until it said that it serves
 * @property {number | null} emptyMs nothing was left in the old process
 * @property {number | null} goneMs the old process had ended
 * @property {number} connections that the new process has
 * @property {number} moved
 * @property {number} refused
 * @property {number} lost
 * @property {number} givingMs the most CPU time that one turn of the old process took for moves
 * @property {number} takingMs of the new process
 * @property {Delays} sender the old process's event loop, from the commit until it was empty
 * @property {Delays} receiver the new one's
 * @property {Span} load from when the new process said that it serves until the old one had gone
 *
 * @typedef {object} Proof
 * @property {ClientsReport[]} clients the last are the other load
 * @property {import('../referee/remote.mjs').BackendReport} backend
 * @property {{ requests: number, twice: number }} plain their other server
 * @property {Upgrade[]} upgrades
 * @property {Delays} quiet the proxy's event loop under the same load, without upgrades
 * @property {Span} quietLoad
 * @property {string} log the end of what the proxies said, where something went wrong
 */

/**
 * @param {object} options
 * @param {ClientsOf[]} options.clients
 * @param {number} options.rate requests a second of other load
 * @param {number} options.upgrades
 * @param {number} options.everyMs between the end of one and the next
 * @param {number} options.quietMs the same without upgrades, before
 * @param {import('./scene.mjs').SceneOptions} [options.scene]
 * @param {(line: string) => void} [options.say]
 * @returns {Promise<Proof>}
 */
export async function prove({
  clients,
  rate,
  upgrades: count,
  everyMs,
  quietMs,
  scene: how,
  say = () => {},
}) {
  const scene = await openScene(how)
  const load = spawnClients('steady', { port: scene.port, rate })
  const holding = clients.map(({ kind, ...options }, at) =>
    spawnClients(kind, {
      ...options,
      // Each has ports of its own to come from, and numbers of its own.
      from: `127.0.0.${at + 2}`,
      run: (at + 1) * 10_000_000,
      port: kind === 'tcp' ? scene.tcpPort : scene.port,
    }),
  )
  try {
    for (const each of [...holding, load]) await each.ready(READY_MS)
    say(`open: ${holding.map(each => `${each.snapshot()?.open} ${each.kind}`).join(', ')}`)
    await rest(2_000)
    await load.mark('quiet')
    const quietFrom = Date.now()
    await rest(quietMs)
    const quiet = scene.delays(scene.app.pid, quietFrom, Date.now())
    const quietLoad = await load.mark('rest 0')
    /** @type {Upgrade[]} */
    const upgrades = []
    for (let number = 1; number <= count; number++) {
      const done = await upgrade(scene, load, number)
      upgrades.push(done)
      say(line(done, [...holding, load]))
      await rest(everyMs)
    }
    await scene.backend.relax()
    const reports = await Promise.all([...holding, load].map(each => each.stop()))
    const backend = await scene.backend.report()
    const lost = reports.some(({ counts }) => counts.closed + counts.failed + counts.wrong > 0)
    return {
      clients: reports,
      backend,
      plain: await scene.plain.report(),
      upgrades,
      quiet,
      quietLoad,
      log: lost ? scene.app.output.slice(-8_000) : '',
    }
  } finally {
    load.kill()
    for (const each of holding) each.kill()
    await scene.end()
  }
}

/**
 * @param {Awaited<ReturnType<typeof openScene>>} scene
 * @param {ReturnType<typeof spawnClients>} load
 * @param {number} number
 * @returns {Promise<Upgrade>}
 */
async function upgrade(scene, load, number) {
  const { app } = scene
  const old = app.pid
  const name = `upgrade ${number}`
  const tookMs = await app.replace(pid =>
    scene.lines().some(line => line.pid === pid && line.msg === 'the proxy serves'),
  )
  await load.mark(name)
  if (tookMs === null) throw new Error(`${name} was not done; the proxy says:\n${app.output.slice(-4_000)}`)
  const of = (
    /** @type {number} */ pid,
    /** @type {(line: import('./scene.mjs').Line) => boolean} */ holds,
  ) => scene.lines().find(line => line.pid === pid && holds(line))
  const gone = await until(() => hasEnded(old), GONE_MS)
  const goneAt = Date.now()
  await rest(WRITTEN_MS)
  const during = await load.mark(`rest ${number}`)
  const commit = of(old, ({ phase }) => phase === 'committing')?.time ?? Number.NaN
  const left = of(old, ({ msg }) => msg === 'no connection is left in this process')
  const empty = left?.time ?? goneAt
  const answer = await status(app.control)
  const moves = answer?.moves ?? {}
  const refused = of(old, ({ refused }) => refused !== undefined)?.refused ?? {}
  return {
    name,
    pid: app.pid,
    tookMs,
    emptyMs: left === undefined ? null : left.time - commit,
    goneMs: gone ? goneAt - commit : null,
    connections: answer?.connections ?? Number.NaN,
    moved: left?.moved ?? 0,
    refused: Object.values(refused).reduce((sum, each) => sum + Number(each), 0),
    lost: moves.lost ?? Number.NaN,
    givingMs: left?.longestGivingMs ?? Number.NaN,
    takingMs: moves.longestTakingMs ?? Number.NaN,
    sender: scene.delays(old, commit, empty),
    receiver: scene.delays(app.pid, commit, empty),
    load: during,
  }
}

/** @param {Upgrade} upgrade @param {ReturnType<typeof spawnClients>[]} holding */
function line({ name, moved, emptyMs, goneMs, givingMs, takingMs }, holding) {
  const counts = holding.flatMap(each => each.snapshot()?.counts ?? [])
  const sum = (/** @type {'closed' | 'failed' | 'wrong'} */ what) =>
    counts.reduce((total, each) => total + each[what], 0)
  return `${name}: ${moved} moved, empty after ${emptyMs ?? '-'} ms, gone after ${goneMs ?? '-'} ms, turns ${givingMs} and ${takingMs} ms; so far ${sum('closed')} closed, ${sum('failed')} failed, ${sum('wrong')} wrong`
}
