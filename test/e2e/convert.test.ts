import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { present } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

/** A server that says what has reached it. */
async function echo(name: string): Promise<number> {
  const server = createServer((request, response) => {
    const { host, 'x-real-ip': address, 'x-secret': secret } = request.headers
    response.setHeader('X-Powered-By', 'echo')
    response.end(JSON.stringify({ name, method: request.method, url: request.url, host, address, secret }))
  })
  server.listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

type Requests = readonly (readonly [
  host: string,
  path: string,
  more?: { method?: string; headers?: Record<string, string> },
])[]

/** The answers of the server at this port. */
function answers(port: number, requests: Requests): Promise<object[]> {
  return Promise.all(
    requests.map(async ([host, path, { method, headers } = {}]) => {
      const {
        status,
        headers: fields,
        body,
      } = await ask(`http://127.0.0.1:${port}${path}`, {
        ...(method !== undefined && { method }),
        headers: { host, ...headers },
      }).answer
      const { location, 'x-frame-options': frame, 'x-powered-by': by } = fields
      // Servers have bodies of their own for errors and redirects.
      const own = status === 200 ? body : ''
      return { host, path, status, location, frame, by, body: own.startsWith('{') ? JSON.parse(own) : own }
    }),
  )
}

/** Starts a command that serves at this port until the test is over. */
async function serving(port: number, command: string, ...args: string[]): Promise<void> {
  const child = spawn(command, args, { stdio: 'ignore' })
  onTestFinished(async () => {
    child.kill('SIGTERM')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  })
  await until(`${command} serves`, () =>
    ask(`http://127.0.0.1:${port}/`).answer.then(
      () => true,
      () => false,
    ),
  )
}

/** Converts a file with the port of the other server replaced by one of the proxy's own, and serves it. Returns the port. */
async function converted(sandbox: Sandbox, file: string, port: number): Promise<number> {
  const own = await freePort()
  const { stdout, code, stderr } = await sandbox.run('convert', file)
  expect([code, stderr]).toEqual([0, expect.stringContaining(' said')])
  const yaml = join(sandbox.folder, 'edge.yaml')
  writeFileSync(
    yaml,
    stdout
      .replaceAll(`:${port}`, `:${own}`)
      .replace('service: edge', `service: edge\ncontrol: ${sandbox.control}`),
  )
  await sandbox.launch([...present.cli, 'proxy', '--config', yaml])
  await until(
    'the proxy serves',
    () => existsSync(sandbox.log) && readFileSync(sandbox.log, 'utf8').includes('the proxy serves'),
    15_000,
    () => `${sandbox.output}\n${readFileSync(yaml, 'utf8')}`,
  )
  return own
}

const REQUESTS: Requests = [
  ['shop.test', '/'],
  ['shop.test', '/cart?a=1&b=%20'],
  ['shop.test', '/api/users/7?x=1'],
  ['shop.test', '/api'],
  ['shop.test', '/old/page?x=1'],
  ['shop.test', '/ping'],
  ['shop.test', '/secret'],
  ['www.shop.test', '/cart?a=1'],
  ['a.tenants.test', '/x'],
  ['a.b.tenants.test', '/x'],
  ['unknown.test', '/any'],
  ['shop.test', '/cart', { method: 'POST' }],
  ['shop.test', '/beta', { headers: { 'X-Beta': '1' } }],
]

it.skipIf(!has('nginx'))('a converted file of nginx answers as nginx does', async () => {
  const sandbox = Sandbox.open()
  const [app, api, port] = [await echo('app'), await echo('api'), await freePort()]
  const home = sandbox.folder
  mkdirSync(join(home, 'sites'))
  writeFileSync(
    join(home, 'sites', 'tenants.conf'),
    `server { listen 127.0.0.1:${port}; server_name *.tenants.test;
      location / { proxy_pass http://api; proxy_set_header Host $host; } }`,
  )
  const file = join(home, 'nginx.conf')
  writeFileSync(
    file,
    `${process.getuid?.() === 0 ? 'user root;' : ''} daemon off; pid ${home}/nginx.pid; error_log ${home}/error.log;
events { worker_connections 100; }
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${home}/${name};`).join(' ')}
  upstream app { server 127.0.0.1:${app}; keepalive 4; }
  upstream api { server 127.0.0.1:${api} weight=2; least_conn; }
  include sites/*.conf;
  server {
    listen 127.0.0.1:${port} default_server;
    server_name shop.test www.shop.test;
    if ($host = www.shop.test) { return 301 http://shop.test$request_uri; }
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    add_header X-Frame-Options DENY;
    proxy_hide_header X-Powered-By;
    location / { proxy_pass http://app; if ($request_method = POST) { return 405; } }
    location /api/ { proxy_pass http://api/v1/; }
    location /old { return 302 https://new.test$request_uri; }
    location = /ping { default_type text/plain; return 200 "pong"; }
    location /secret { auth_basic "x"; auth_basic_user_file htpasswd; proxy_pass http://app; }
    location /beta { proxy_pass http://app; proxy_set_header Host beta.test; proxy_set_header X-Secret "of $host"; }
  }
}`,
  )
  await serving(port, 'nginx', '-p', home, '-c', file, '-e', join(home, 'start.log'))
  const own = await converted(sandbox, file, port)
  const [theirs, ours] = [await answers(port, REQUESTS), await answers(own, REQUESTS)]
  // nginx adds a slash, and closes what it cannot ask a password for with 401 (here: 403, until there is a guard).
  const known = (all: object[]) =>
    all.filter((_, at) => REQUESTS[at]![1] !== '/api' && REQUESTS[at]![1] !== '/secret')
  expect(known(ours)).toEqual(known(theirs))
  expect(ours.find((_, at) => REQUESTS[at]![1] === '/secret')).toMatchObject({ status: 403 })
})

it.skipIf(!has('haproxy'))('a converted file of HAProxy answers as HAProxy does', async () => {
  const sandbox = Sandbox.open()
  const [app, api, port] = [await echo('app'), await echo('api'), await freePort()]
  const file = join(sandbox.folder, 'haproxy.cfg')
  writeFileSync(
    file,
    `global
  maxconn 100
defaults
  mode http
  option forwardfor
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend web
  bind 127.0.0.1:${port}
  acl is_api path_beg /api/
  acl tenants hdr_end(host) -i .tenants.test
  acl shop hdr(host) -i shop.test www.shop.test
  acl beta hdr(X-Beta) 1
  http-request set-header X-Real-IP %[src]
  http-request redirect prefix http://shop.test code 301 if { hdr(host) -i www.shop.test }
  http-request return status 200 content-type text/plain string pong if { path /ping }
  http-request deny if { path_beg /secret }
  http-request redirect location https://new.test/ code 302 if { path_beg /old } shop
  http-request deny deny_status 405 if { method POST } !is_api
  http-response set-header X-Frame-Options DENY
  http-response del-header X-Powered-By
  use_backend api if is_api
  use_backend api if tenants
  use_backend beta if beta shop
  use_backend app if shop
backend app
  balance leastconn
  server s1 127.0.0.1:${app} check inter 200ms maxconn 50
backend beta
  http-request set-header X-Secret beta
  server s1 127.0.0.1:${app}
backend api
  http-request replace-path /api(/)?(.*) /\\2
  server s1 127.0.0.1:${api} weight 10
`,
  )
  await serving(port, 'haproxy', '-db', '-f', file)
  const own = await converted(sandbox, file, port)
  expect(await answers(own, REQUESTS)).toEqual(await answers(port, REQUESTS))
})
