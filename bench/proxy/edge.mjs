// @ts-check
// The reference proxy in front of two little servers, for the demo and the load.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { App } from '../app.mjs'

export const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const UPSTREAM = fileURLToPath(new URL('upstream.mjs', import.meta.url))

/** @param {string} name @returns {Promise<{ pid: number, url: string, end: () => void }>} a process that ends with this one */
export async function spawnUpstream(name) {
  const child = spawn(process.execPath, [UPSTREAM, name], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [port] = await once(createInterface(child.stdout), 'line')
  return { pid: child.pid ?? 0, url: `http://127.0.0.1:${port}`, end: () => void child.kill('SIGKILL') }
}

/**
 * A configuration for `target`, in which every second route leads to the other server.
 * @param {{ control: string, target: string, even: string, odd: string, logLevel?: string }} options
 */
export function edgeConfig({ control, target, even, odd }) {
  return {
    service: 'edge',
    control,
    instanceHeader: 'X-Pid',
    listeners: [{ name: 'http', address: target.replace('http:', 'tcp:') }],
    upstreams: { even: { servers: [even] }, odd: { servers: [odd] }, all: { servers: [even, odd] } },
    routes: [
      { host: '*', path: '/', upstream: 'all' },
      { host: '*', path: '/health', respond: { status: 200, body: 'ok\n' } },
    ],
    drain: { timeout: '5m' },
    upgrade: { probation: '0s' },
  }
}

/** @param {number} count @returns {string} JSON lines */
export function edgeRoutes(count) {
  const line = (/** @type {number} */ n) =>
    `${JSON.stringify({ host: '*', path: `/r/${n}`, upstream: n % 2 === 0 ? 'even' : 'odd' })}\n`
  return Array.from({ length: count }, (_, n) => line(n)).join('')
}

/**
 * The proxy, answering, with its routes made at run time: only the first generation is told of them.
 * @param {{ routes: number, naive: boolean, cli?: string, inFile?: boolean, logLevel?: string, server?: (name: string) => Promise<{ url: string, end: () => void }> }} options
 *   `server`: starts one of the two servers; `inFile`: the routes stand in the configuration
 */
export async function startEdge({
  routes,
  naive,
  cli = CLI,
  inFile = naive,
  logLevel = 'warn',
  server = spawnUpstream,
}) {
  const servers = await Promise.all([server('even'), server('odd')])
  const [even, odd] = servers.map(server => server.url)
  const end = () => {
    for (const server of servers) server.end()
  }
  try {
    const app = await App.startCommand({
      command: ({ folder, control, target }) => {
        const file = join(folder, 'edge.json')
        const config = edgeConfig({ control, target, even: even ?? '', odd: odd ?? '' })
        // A stop and a start lose the routes that were made at run time: here they stand in the file.
        if (inFile)
          config.routes.push(
            ...edgeRoutes(routes)
              .trim()
              .split('\n')
              .map(line => JSON.parse(line)),
          )
        writeFileSync(file, JSON.stringify(config))
        return [cli, 'proxy', '--config', file, '--log-level', logLevel]
      },
      probe: '/health',
      naive,
    })
    try {
      if (!inFile) await addRoutes(cli, app, routes)
    } catch (error) {
      await app.end()
      throw error
    }
    return { app, end }
  } catch (error) {
    end()
    throw error
  }
}

/** @param {string} cli @param {App} app @param {number} count */
async function addRoutes(cli, { folder, control }, count) {
  const file = join(folder, 'routes.jsonl')
  writeFileSync(file, edgeRoutes(count))
  await promisify(execFile)(process.execPath, [cli, 'routes', 'add', '--control', control, '--file', file])
}
