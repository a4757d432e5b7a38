// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { spawnReporter } from '../reporter.mjs'

const MAIN = fileURLToPath(new URL('main.mjs', import.meta.url))
const PLAIN = fileURLToPath(new URL('plain.mjs', import.meta.url))
const BACKEND = fileURLToPath(new URL('backend.mjs', import.meta.url))

/**
 * @typedef {'idle' | 'steady' | 'ws' | 'tcp' | 'slow' | 'events' | 'upload' | 'download' | 'hostile'} Kind
 * @typedef {object} ClientsOptions see bench/clients/main.mjs
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
 * @typedef {{ kind: Kind, ready: boolean, open: number, pid: number, counts: import('./verdicts.mjs').Counts, incidents: import('./verdicts.mjs').Incident[], cpuMs: number, lagMs: number }} ClientsReport
 * @typedef {{ requests: number, twice: number, broken: number, wrong: number, messages: number, bytes: number, reasons: string[] }} BackendReport
 */

/** Clients of one kind in a process of their own. @param {Kind} kind @param {ClientsOptions} options */
export function spawnClients(kind, options) {
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const { pid, snapshot, ask, stop, kill } = spawnReporter(MAIN, [kind, ...args])
  return {
    kind,
    pid,
    kill,
    /** @type {() => ClientsReport | null} */
    snapshot,
    /** Every connection has been looked at once more when it resolves. @type {() => Promise<ClientsReport>} */
    stop,
    /** Of `steady`: ends a span of time and begins another. @type {(name: string) => Promise<import('./steady.mjs').Span>} */
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

/** The server of `idle` and `steady`. */
export async function spawnPlain() {
  const child = spawn(process.execPath, [PLAIN], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [port] = await once(createInterface(child.stdout), 'line')
  return {
    pid: child.pid ?? 0,
    port: Number(port),
    /** @returns {Promise<{ requests: number, twice: number }>} */
    report: async () => {
      const response = await fetch(`http://127.0.0.1:${port}/report`)
      return /** @type {any} */ (await response.json())
    },
    end: () => void child.kill('SIGKILL'),
  }
}

/** The server that all others talk to. @param {{ everyMs?: number }} [options] */
export async function spawnBackend({ everyMs } = {}) {
  const args = everyMs === undefined ? [] : [String(everyMs)]
  const child = spawn(process.execPath, [BACKEND, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [line] = await once(createInterface(child.stdout), 'line')
  const { http, tcp } = JSON.parse(String(line))
  const call = async (/** @type {string} */ path, /** @type {string} */ method) => {
    const response = await fetch(`http://127.0.0.1:${http}${path}`, { method })
    return response.text()
  }
  return {
    pid: child.pid ?? 0,
    /** Ports. */
    http: Number(http),
    tcp: Number(tcp),
    /** @returns {Promise<BackendReport>} */
    report: async () => JSON.parse(await call('/report', 'GET')),
    /** Whoever read slowly reads at once from now on: before talks are stopped. */
    relax: () => call('/relax', 'POST'),
    end: () => void child.kill('SIGKILL'),
  }
}
