// @ts-check
// sozu as the same proxy: one worker.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { family } from './processes.mjs'

/** @returns {string | null} its version; null: it is not installed */
export function sozuVersion() {
  try {
    return execFileSync('sozu', ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? null
  } catch {
    return null
  }
}

/**
 * @param {{ folder: string, port: number, upstreamPort: number, replaced?: boolean }} options `replaced`: in a session of its own
 * @returns {{ file: string, pid: number, pids: () => number[], end: () => void }}
 */
export function startSozu({ folder, port, upstreamPort, replaced = false }) {
  const home = join(folder, `sozu-${port}`)
  mkdirSync(home, { recursive: true })
  // Hosts that the loads name.
  const frontends = ['127.0.0.1', 'example.com', 'plain.test', 'clients.test'].map(
    host => `{ address = "127.0.0.1:${port}", hostname = "${host}", path = "/" }`,
  )
  const file = join(home, 'sozu.toml')
  writeFileSync(
    file,
    `log_level = "error"
log_target = "stdout"
command_socket = "${home}/sozu.sock"
worker_count = 1
max_connections = 9000
buffer_size = 16393
activate_listeners = true
[[listeners]]
protocol = "http"
address = "127.0.0.1:${port}"
[clusters.app]
protocol = "http"
frontends = [ ${frontends.join(', ')} ]
backends = [ { address = "127.0.0.1:${upstreamPort}" } ]
`,
  )
  const child = spawn('sozu', ['start', '-c', file], {
    detached: replaced,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const pid = child.pid ?? 0
  return { file, pid, pids: () => family(pid), end: () => void child.kill('SIGTERM') }
}
