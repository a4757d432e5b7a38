// @ts-check
// CPU time a request over HTTP/2 without TLS, of the proxy and of those of others that have it, in turns. The load is h2load.
import { execFile, execFileSync } from 'node:child_process'
import { connect } from 'node:http2'
import { promisify } from 'node:util'
import { freePort } from '../free-port.mjs'
import { startHaproxy } from './haproxy.mjs'
import { OTHERS, startProxy } from './kinds.mjs'
import { startNginx } from './nginx.mjs'
import { cpu, rest } from './processes.mjs'

/** @typedef {import('./processes.mjs').Running} Running */

const run = promisify(execFile)

/** @typedef {{ name: string, connections: number, streams: number, path: string }} Case */

/** @type {readonly Case[]} */
export const HTTP2_CASES = [
  { name: '8 connections, 8 streams', connections: 8, streams: 8, path: '/' },
  { name: '64, 1', connections: 64, streams: 1, path: '/' },
  { name: '8, 8, 10 KiB', connections: 8, streams: 8, path: '/10k' },
]

/** @returns {boolean} whether h2load is installed */
export function hasH2load() {
  try {
    execFileSync('h2load', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** The proxies of others that have HTTP/2 in front of HTTP/1.1. */
const STARTS = { nginx: startNginx, HAProxy: startHaproxy }

/** Starts all proxies, by name. @param {string} folder @param {number} upstreamPort @param {string} ours @returns {Promise<Record<string, Running>>} */
export async function startHttp2(folder, upstreamPort, ours) {
  /** @type {Record<string, Running>} */
  const kinds = {}
  for (const { name, version } of OTHERS) {
    const start = STARTS[/** @type {keyof typeof STARTS} */ (name)]
    if (version === null || start === undefined) continue
    const port = await freePort()
    kinds[name] = { port, ...start({ folder, port, upstreamPort, http2: true }) }
    await answers(port)
  }
  kinds[ours] = await startProxy(folder, upstreamPort, { http2: true })
  return kinds
}

/** @param {number} port */
async function answers(port) {
  for (const until = performance.now() + 15_000; performance.now() < until; await rest(20)) {
    const status = await new Promise(resolve => {
      const session = connect(`http://127.0.0.1:${port}`).on('error', () => resolve(0))
      const stream = session.request({ ':path': '/' }).on('error', () => resolve(0))
      stream.on('response', headers => {
        resolve(headers[':status'])
        session.destroy()
      })
    })
    if (status === 200) return
  }
  throw new Error(`nobody answers on port ${port}`)
}

/** Returns the µs of CPU a request. @param {Running} running @param {Case} load @param {number} seconds */
export async function http2Cost({ port, pids }, { connections, streams, path }, seconds) {
  const args = ['-c', `${connections}`, '-m', `${streams}`, `http://127.0.0.1:${port}${path}`]
  // h2load counts no requests of a time that it is to warm up in.
  await run('h2load', ['-n', '2000', ...args])
  const processes = pids()
  const before = cpu(processes)
  const { stdout } = await run('h2load', ['-D', `${seconds}`, ...args])
  const [, done, failed] = /(\d+) succeeded, (\d+) failed/.exec(stdout) ?? []
  if (!(Number(done) > 0) || failed !== '0') throw new Error(stdout)
  return (cpu(processes) - before) / Number(done)
}
