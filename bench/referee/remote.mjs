// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { spawnReporter } from '../reporter.mjs'

const MAIN = fileURLToPath(new URL('main.mjs', import.meta.url))

/**
 * @typedef {import('./load.mjs').LoadOptions} LoadOptions
 * @typedef {import('./load.mjs').LoadReport} LoadReport
 * @typedef {ReturnType<import('./load.mjs').Load['snapshot']>} Snapshot
 * @typedef {'idle' | 'steady' | 'ws' | 'tcp' | 'slow' | 'events' | 'upload' | 'download' | 'hostile'} Kind of clients that hold connections
 * @typedef {object} ClientsOptions see main.mjs
 * @property {number} port
 * @property {number} [count]
 * @property {number} [rate] of `steady`
 * @property {number} [full]
 * @property {number} [everyMs]
 * @property {number} [bytes]
 * @property {number} [stallMs]
 * @property {number} [ms]
 * @property {number} [run]
 * @property {string} [from] address that the clients have
 * @typedef {{ kind: Kind, ready: boolean, open: number, counts: import('./verdicts.mjs').Held, incidents: import('./verdicts.mjs').Incident[], cpuMs: number, lagMs: number }} ClientsReport
 * @typedef {{ name: string, perSecond: number, p50: number, p99: number, max: number }} Span what happened between two marks of `steady`
 * @typedef {{ requests: number, twice: number, broken: number, wrong: number, messages: number, bytes: number, reasons: string[] }} BackendReport
 */

/** @param {string} kind @param {object} options */
function spawnReferee(kind, options) {
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  return spawnReporter(MAIN, [kind, '--piped', ...args])
}

/**
 * The load in a process of its own, so that what the caller does does not make it late. The same calls as startLoad();
 * `snapshot()` is at most `every` ms old and null before the first one.
 * @param {Omit<LoadOptions, 'workload' | 'verdicts' | 'stays'> & { routes?: number, lines?: number, every?: number, workload?: 'shop' | 'proxy' }} options
 */
export function spawnLoad(options) {
  const { pid, snapshot, ask, stop, kill } = spawnReferee('load', { every: 250, ...options })
  return {
    pid,
    /** @type {() => Snapshot | null} */
    snapshot,
    /** @type {(name: string) => Promise<import('./tally.mjs').TallyReport>} */
    mark: name => ask({ mark: name }),
    /** @type {(part: import('./tally.mjs').Part | null) => Promise<unknown>} */
    part: part => ask({ part }),
    /** @type {() => Promise<LoadReport>} */
    stop,
    /** Ends it at once, without a report. */
    kill,
  }
}

/** Clients that hold connections of one kind, in a process of their own. @param {Kind} kind @param {ClientsOptions} options */
export function spawnClients(kind, options) {
  const { pid, snapshot, ask, stop, kill } = spawnReferee(kind, options)
  return {
    kind,
    pid,
    kill,
    /** @type {() => ClientsReport | null} */
    snapshot,
    /** Every connection has been looked at once more when it resolves. @type {() => Promise<ClientsReport>} */
    stop,
    /** Ends a span of time of `steady` and begins another. @type {(name: string) => Promise<Span>} */
    mark: name => ask({ mark: name }),
    /** All are open, and have been answered. @param {number} ms */
    async ready(ms) {
      const until = performance.now() + ms
      for (;;) {
        const now = /** @type {ClientsReport | null} */ (snapshot())
        if (now?.ready) return
        if (performance.now() > until)
          throw new Error(
            `the clients of kind ${kind} were not ready within ${ms} ms: ${JSON.stringify(now)}`,
          )
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    },
  }
}

/** A server in a process of its own, which says one line of JSON when it listens. @param {string} file @param {string[]} args */
async function spawnServer(file, args) {
  const path = fileURLToPath(new URL(file, import.meta.url))
  const child = spawn(process.execPath, [path, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [line] = await once(createInterface(child.stdout), 'line')
  return { pid: child.pid ?? 0, said: JSON.parse(String(line)), end: () => void child.kill('SIGKILL') }
}

/** @param {number} port @param {string} path */
async function call(port, path, method = 'GET') {
  return await (await fetch(`http://127.0.0.1:${port}${path}`, { method })).text()
}

/** The server of `idle` and `steady`. */
export async function spawnPlain() {
  const { pid, said, end } = await spawnServer('plain.mjs', [])
  const port = Number(said)
  return {
    pid,
    port,
    /** @returns {Promise<{ requests: number, twice: number }>} */
    report: async () => JSON.parse(await call(port, '/report')),
    end,
  }
}

/** The server that all others talk to. @param {{ everyMs?: number }} [options] */
export async function spawnBackend({ everyMs } = {}) {
  const { pid, said, end } = await spawnServer('backend.mjs', everyMs === undefined ? [] : [String(everyMs)])
  const http = Number(said.http)
  return {
    pid,
    /** Ports. */
    http,
    tcp: Number(said.tcp),
    /** @returns {Promise<BackendReport>} */
    report: async () => JSON.parse(await call(http, '/report')),
    /** Makes slow readers read at once from now on: before talks are stopped. */
    relax: () => call(http, '/relax', 'POST'),
    end,
  }
}
