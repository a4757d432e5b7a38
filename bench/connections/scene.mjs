// @ts-check
// The reference proxy in front of the servers of bench/referee, in processes of their own; and what its generations said.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { App } from '../app.mjs'
import { freePort } from '../free-port.mjs'
import { CLI } from '../proxy/edge.mjs'
import { edgeConfig } from '../referee/edge.mjs'
import { spawnBackend, spawnPlain } from '../referee/remote.mjs'

/** The span that watch.mjs sums up in one line. */
const LINE_MS = 20
const WATCH = new URL('watch.mjs', import.meta.url).href
const MODULES = fileURLToPath(new URL('modules-cli.mjs', import.meta.url))

/**
 * A line of the log. @typedef {{ time: number, pid: number, msg: string } & Record<string, any>} Line
 * The main thread of one process in a span of time: the longest of each kind, and all its CPU time, in ms; `moves`: in one turn for moves, `movesAll`: with garbage collection. @typedef {{ late: number, ran: number, waited: number, cpu: number, moves: number, movesAll: number }} Delays
 * `drain`, `upgrade` and `limits` are those of the configuration; `everyMs` is between two messages of a talk; `modules`: not the published file, so that `moves` can be told (0 otherwise). @typedef {{ modules?: boolean, drain?: object, upgrade?: object, limits?: object, everyMs?: number, fds?: number | null, nodeFlags?: string[] }} SceneOptions
 */

/** @param {SceneOptions} [options] */
export async function openScene({
  drain = {},
  upgrade = {},
  limits = {},
  everyMs = 500,
  fds = null,
  nodeFlags = [],
  modules = false,
} = {}) {
  const tcpPort = await freePort()
  const [backend, plain] = await Promise.all([spawnBackend({ everyMs }), spawnPlain()])
  const endServers = () => {
    for (const each of [backend, plain]) each.end()
  }
  /** @param {{ control: string, target: string }} app */
  const configFor = ({ control, target }) => {
    const config = edgeConfig({ control, port: new URL(target).port, tcpPort, backend, plain })
    return {
      ...config,
      limits,
      drain: { ...config.drain, ...drain },
      upgrade: { ...config.upgrade, ...upgrade },
    }
  }
  /** The fields in which the next version's configuration differs. */
  const next = {
    change: (/** @type {ReturnType<typeof configFor>} */ config) => /** @type {object} */ (config),
  }
  const watched = mkdtempSync(join(tmpdir(), 'fd-broker-watch-'))
  try {
    const app = await App.startCommand({
      command: ({ folder, control, target }) => {
        const file = join(folder, 'edge.json')
        writeFileSync(file, JSON.stringify(next.change(configFor({ control, target }))))
        return [...nodeFlags, modules ? MODULES : CLI, 'proxy', '--config', file, '--log-level', 'debug']
      },
      probe: '/health',
      naive: false,
      fds,
      env: { NODE_OPTIONS: `--import ${WATCH}`, FDB_WATCH: watched },
    })
    return {
      app,
      backend,
      plain,
      next,
      port: Number(new URL(app.target).port),
      tcpPort,
      lines: () => linesOf(app.output),
      /** @param {number} pid @param {number} from ms since 1970 @param {number} to @returns {Delays} */
      delays: (pid, from, to) => delaysOf(join(watched, String(pid)), from, to),
      async end() {
        await app.end()
        endServers()
        rmSync(watched, { recursive: true, force: true, maxRetries: 10 })
      },
    }
  } catch (error) {
    endServers()
    rmSync(watched, { recursive: true, force: true, maxRetries: 10 })
    throw error
  }
}

/** @param {string} output @returns {Line[]} */
function linesOf(output) {
  return output
    .slice(0, output.lastIndexOf('\n') + 1)
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line))
}

/** Reads the delays that watch.mjs wrote. @param {string} file @param {number} from @param {number} to @returns {Delays} */
function delaysOf(file, from, to) {
  const most = { late: 0, ran: 0, waited: 0, cpu: 0, moves: 0, movesAll: 0 }
  if (!existsSync(file)) return most
  for (const line of readFileSync(file, 'latin1').split('\n')) {
    const [at = 0, late = 0, ran = 0, waited = 0, cpu = 0, moves = 0, movesAll = 0] = line
      .split(' ')
      .map(Number)
    if (at < from + LINE_MS || at > to + LINE_MS) continue
    most.late = Math.max(most.late, late)
    most.ran = Math.max(most.ran, ran)
    most.waited = Math.max(most.waited, waited)
    most.cpu += cpu
    most.moves = Math.max(most.moves, moves)
    most.movesAll = Math.max(most.movesAll, movesAll)
  }
  return most
}
