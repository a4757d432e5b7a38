// @ts-check
// The proxies that are measured, each in front of the same server.
import { execFileSync, fork, spawn } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../free-port.mjs'
import { haproxyVersion, startHaproxy } from './haproxy.mjs'
import { nginxVersion, startNginx } from './nginx.mjs'
import { answers } from './processes.mjs'
import { sozuVersion, startSozu } from './sozu.mjs'

/** @typedef {import('./processes.mjs').Running} Running */

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
export const UNDICI = 'node:http + undici'
export const BARE = 'bare C'
export const OURS = 'fd-broker'
/** Routes of a usual configuration. */
export const FEW = 10

/** @param {string[]} execArgv @param {string} file @param {(string | number)[]} args */
export const forked = (execArgv, file, ...args) =>
  fork(fileURLToPath(new URL(file, import.meta.url)), args.map(String), {
    execArgv,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })

/** @param {import('node:child_process').ChildProcess} child @returns {Promise<any>} */
export const message = child => new Promise(resolve => child.once('message', resolve))

/** The proxy as operators run it. @param {string} folder @param {object} parts of the configuration */
function spawnProxy(folder, parts) {
  const home = mkdtempSync(join(folder, 'proxy-'))
  const control = join(home, 'upgrade.sock')
  const file = join(home, 'edge.json')
  writeFileSync(file, JSON.stringify({ service: 'bench', control, ...parts }))
  const logs = ['--log-level', 'warn', '--access-log-file', join(home, 'access.log')]
  const child = spawn(process.execPath, [CLI, 'proxy', '--config', file, ...logs], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  return { home, control, pids: () => [child.pid ?? 0], end: () => void child.kill('SIGKILL') }
}

/**
 * With its routes made at run time. `scrape`: asks for its metrics.
 * @param {string} folder @param {number} upstreamPort @param {{ routes?: number, accessLog?: boolean, metrics?: boolean, http2?: boolean }} [options]
 * @returns {Promise<Running & { scrape: () => Promise<unknown> }>}
 */
export async function startProxy(
  folder,
  upstreamPort,
  { routes = FEW, accessLog = false, metrics = false, http2 = false } = {},
) {
  const [port, scraped] = [await freePort(), await freePort()]
  const { home, control, ...running } = spawnProxy(folder, {
    instanceHeader: 'X-Gen',
    accessLog,
    listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}`, ...(http2 && { http2 }) }],
    // As long as nginx keeps them.
    upstreams: { app: { servers: [`http://127.0.0.1:${upstreamPort}`], keepAlive: { idle: '60s' } } },
    routes: [{ host: '*', upstream: 'app' }],
    ...(metrics && { metrics: `tcp://127.0.0.1:${scraped}` }),
  })
  await answers(port)
  const more = join(home, 'routes.jsonl')
  // The load asks example.com for / and /10k.
  const places = [{ host: 'example.com', path: '/' }]
  for (let n = 2; n < routes; n++) places.push({ host: `h${n}.example.com`, path: `/p${n % 10}` })
  writeFileSync(more, places.map(place => `${JSON.stringify({ ...place, upstream: 'app' })}\n`).join(''))
  execFileSync(process.execPath, [CLI, 'routes', 'add', '--control', control, '--file', more])
  const scrape = async () => await (await fetch(`http://127.0.0.1:${scraped}/metrics`)).text()
  return { port, scrape, ...running }
}

/** @param {number} upstreamPort @param {string[]} [execArgv] @returns {Promise<Running>} */
export async function startUndici(upstreamPort, execArgv = []) {
  const child = forked(execArgv, '../relay/undici-proxy.mjs', upstreamPort)
  const { port } = await message(child)
  return { port, pids: () => [child.pid ?? 0], end: () => void child.kill('SIGKILL') }
}

/** @typedef {(options: { folder: string, port: number, upstreamPort: number, accessLog?: boolean }) => Pick<Running, 'pids' | 'end'>} Start */

/** The installed proxies of others, by name. */
export const OTHERS = [
  {
    name: 'nginx',
    install: 'apt-get install nginx-light',
    version: nginxVersion(),
    start: /** @type {Start} */ (startNginx),
  },
  {
    name: 'HAProxy',
    install: 'apt-get install haproxy',
    version: haproxyVersion(),
    start: /** @type {Start} */ (startHaproxy),
  },
  {
    name: 'sozu',
    install: 'cargo install sozu',
    version: sozuVersion(),
    start: /** @type {Start} */ (startSozu),
  },
]

/** @param {Start} start @param {string} folder @param {number} upstreamPort @param {boolean} [accessLog] @returns {Promise<Running>} */
export async function startOther(start, folder, upstreamPort, accessLog = false) {
  const port = await freePort()
  const running = start({ folder, port, upstreamPort, accessLog })
  await answers(port)
  return { port, ...running }
}

/** Starts tunnels for whole connections, by name. @param {string} folder @param {number} sourcePort @returns {Promise<Record<string, Running>>} */
export async function startTunnels(folder, sourcePort) {
  const port = await freePort()
  const { pids, end } = spawnProxy(folder, {
    listeners: [{ name: 'raw', address: `tcp://127.0.0.1:${port}`, forward: 'source' }],
    upstreams: { source: { servers: [`tcp://127.0.0.1:${sourcePort}`] } },
  })
  /** @type {Record<string, Running>} */
  const tunnels = { [OURS]: { port, pids, end } }
  if (haproxyVersion() !== null) {
    const other = await freePort()
    tunnels.HAProxy = {
      port: other,
      ...startHaproxy({ folder, port: other, upstreamPort: sourcePort, tunnel: true }),
    }
  }
  return tunnels
}
