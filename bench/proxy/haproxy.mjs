// @ts-check
// HAProxy as the same proxy: one thread, keep-alive to the server, the same fields added, no log; and as one of whole connections.
import { execFileSync, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DRAIN_S, family } from './processes.mjs'

/** @returns {string | null} its version; null: it is not installed */
export function haproxyVersion() {
  try {
    return execFileSync('haproxy', ['-v'], { encoding: 'utf8' }).split('\n')[0] ?? null
  } catch {
    return null
  }
}

/**
 * @param {{ folder: string, port: number, upstreamPort: number, tunnel?: boolean, replaced?: boolean, http2?: boolean }} options `replaced`: with a master process, which reloads, in a session of its own
 * @returns {{ pid: number, pids: () => number[], end: () => void }}
 */
export function startHaproxy({
  folder,
  port,
  upstreamPort,
  tunnel = false,
  replaced = false,
  http2 = false,
}) {
  const file = join(folder, `haproxy-${port}.cfg`)
  const fields = tunnel
    ? ''
    : `
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-response set-header X-Gen %pid`
  writeFileSync(
    file,
    `global
  maxconn 9000
  nbthread 1${replaced ? `\n  hard-stop-after ${DRAIN_S}s` : ''}
defaults
  mode ${tunnel ? 'tcp' : 'http'}
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend front
  bind 127.0.0.1:${port} backlog 16384${http2 ? ' proto h2' : ''}${fields}
  default_backend app
backend app${tunnel ? '' : '\n  http-reuse always'}
  server one 127.0.0.1:${upstreamPort}${tunnel ? '' : ' pool-max-conn -1'}
`,
  )
  const child = spawn('haproxy', [...(replaced ? ['-W'] : []), '-f', file], {
    detached: replaced,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const pid = child.pid ?? 0
  return { pid, pids: () => family(pid), end: () => void child.kill('SIGTERM') }
}
