// @ts-check
// nginx as the same proxy: one worker, keep-alive to the server, the same fields added; with no log, or with its usual one.
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DRAIN_S, family } from './processes.mjs'

/** @returns {string | null} its version; null: it is not installed */
export function nginxVersion() {
  try {
    return execFileSync('sh', ['-c', 'nginx -v 2>&1'], { encoding: 'utf8' }).trim()
  } catch {
    return null
  }
}

/**
 * @param {{ folder: string, port: number, upstreamPort: number, accessLog?: boolean, replaced?: boolean, http2?: boolean }} options `replaced`: as a daemon, which alone changes its binary, in a session of its own
 * @returns {{ home: string, pid: number, pids: () => number[], end: () => void }} `home`: where nginx.pid is
 */
export function startNginx({
  folder,
  port,
  upstreamPort,
  accessLog = false,
  replaced = false,
  http2 = false,
}) {
  const home = join(folder, `nginx-${port}`)
  mkdirSync(home, { recursive: true })
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  const user = process.getuid?.() === 0 ? 'user root;' : ''
  writeFileSync(
    join(home, 'nginx.conf'),
    `${user}
daemon ${replaced ? 'on' : 'off'};
worker_processes 1;
pid ${home}/nginx.pid;
error_log stderr crit;
${replaced ? `worker_shutdown_timeout ${DRAIN_S}s;` : ''}
events { worker_connections 20000; }
http {
  access_log ${accessLog ? `${home}/access.log` : 'off'};
  keepalive_requests 100000000;
  ${temporary.map(name => `${name}_temp_path ${home}/${name};`).join('\n  ')}
  upstream app { server 127.0.0.1:${upstreamPort}; keepalive 4096; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:${port} backlog=16384${http2 ? ' http2' : ''};
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      add_header X-Gen $pid;
    }
  }
}
`,
  )
  const args = ['-p', home, '-c', join(home, 'nginx.conf')]
  if (replaced) {
    // nginx starts its next version by the path that it was started by.
    const file = execFileSync('sh', ['-c', 'command -v nginx'], { encoding: 'utf8' }).trim()
    execFileSync(file, args, { stdio: ['ignore', 'ignore', 'inherit'] })
    const pid = Number(readFileSync(join(home, 'nginx.pid'), 'utf8'))
    return { home, pid, pids: () => family(pid), end: () => void process.kill(pid, 'SIGTERM') }
  }
  const child = spawn('nginx', args, { stdio: ['ignore', 'ignore', 'inherit'] })
  const pid = child.pid ?? 0
  return { home, pid, pids: () => family(pid), end: () => void child.kill('SIGTERM') }
}
