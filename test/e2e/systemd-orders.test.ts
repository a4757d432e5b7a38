import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { issue } from '../processes/certificate.js'
import { noMachine, runMachine } from '../processes/machine.js'

const why = noMachine()
const STEPS = (process.env.FD_BROKER_ORDERS ?? 'reload restart stop kill').split(' ')
/** TimeoutStopSec: shorter than in the units, so that a wait until it is over is seen. */
const LIMIT_MS = 20_000
const LIMITED = '[Unit]\nStartLimitIntervalSec=0\n[Service]\nTimeoutStopSec=20\n'

const EDGE = `
service: edge
control: /run/edge/edge.sock
upgrade: { probation: 1s }
drain: { timeout: 3s }
listeners: [{ name: https, address: 'tcp://127.0.0.1:8443', tls: true }]
tls: { certificates: [{ cert: /etc/edge.cert, key: /etc/edge.key }] }
upstreams: { app: { servers: ['http://127.0.0.1:9001'] } }
routes: [{ host: '*', upstream: app }]
`
const SETUP_EDGE =
  'for i in cert key yaml; do install -m 600 -o edge /out/edge.$i /etc/edge.$i; done; chmod 755 /out'
const PLAIN_EDGE = `[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/fd-broker proxy --config /etc/edge.yaml
ExecReload=/usr/bin/fd-broker upgrade --control /run/edge/edge.sock
RuntimeDirectory=edge
TimeoutStopSec=20
`
const NOTIFY_EDGE = PLAIN_EDGE.replace('[Service]\n', '[Service]\nType=notify\nNotifyAccess=all\n').replace(
  /ExecReload=.*/,
  'ExecReload=/bin/kill -USR2 $MAINPID',
)

const SETUP_SHOP = `mkdir -p /srv/shop/1 /srv/shop/node_modules
ln -s /opt/fd-broker /srv/shop/node_modules/fd-broker
{ echo "process.env.SHOP_CONTROL = '/run/shop/shop.sock'; process.env.SHOP_ROUTES = '100'"; grep -v '^#!' /opt/fd-broker/docs/examples/shop/server.mjs; } >/srv/shop/1/server.mjs
ln -s /srv/shop/1 /srv/shop/current
[ -e /usr/bin/node ] || { printf '#!/bin/sh\\nexec "${process.execPath}" "$@"\\n' >/usr/bin/node; chmod 755 /usr/bin/node; }
`
const SETUP_AUTO = `mkdir -p /srv/app/node_modules
ln -s /opt/fd-broker /srv/app/node_modules/fd-broker
echo '{"scripts":{"start":"node --import fd-broker/auto server.cjs"}}' >/srv/app/package.json
cat >/srv/app/server.cjs <<'S'
const server = require('http').createServer((q, r) => setTimeout(() => r.end('done'), q.url === '/slow' ? 1000 : 0))
server.listen(8080)
process.on('SIGTERM', () => server.close())
S
[ -e /usr/bin/node ] || { printf '#!/bin/sh\\nexec "${process.execPath}" "$@"\\n' >/usr/bin/node; chmod 755 /usr/bin/node; }
`
const AUTO = `[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
NotifyAccess=all
WorkingDirectory=/srv/app
Environment=FD_BROKER_NAME=app FD_BROKER_CONTROL=/run/app/app.sock
ExecStart=/usr/bin/node --import fd-broker/auto server.cjs
ExecReload=/usr/bin/fd-broker upgrade --control /run/app/app.sock
RuntimeDirectory=app
TimeoutStopSec=20
`

/** npm ends with its script. */
const NPM = AUTO.replace(/ExecStart=.*/, 'ExecStart=npm start').replace(
  'FD_BROKER_NAME=app',
  'FD_BROKER_NAME=app FD_BROKER_PROBATION=1s',
)
const PLAIN_NPM = NPM.replace('Type=notify\nNotifyAccess=all\n', '')

interface Orders {
  readonly unit: string
  /** The control socket. */
  readonly control: string
  readonly port: number
  readonly tls: boolean
  readonly slow: string
  readonly setup: string
  readonly units: Readonly<Record<string, string>>
}

const edge = {
  unit: 'edge',
  control: '/run/edge/edge.sock',
  port: 8443,
  tls: true,
  slow: '/slow',
  setup: SETUP_EDGE,
}
const app = {
  unit: 'app',
  control: '/run/app/app.sock',
  port: 8080,
  tls: false,
  slow: '/slow',
  setup: SETUP_AUTO,
}
const CASES: Readonly<Record<string, Orders>> = {
  'the shipped unit of the proxy': { ...edge, units: { 'edge.service.d/test.conf': LIMITED } },
  'a plain unit of the proxy, without messages to systemd': {
    ...edge,
    units: { 'edge.service': PLAIN_EDGE },
  },
  'a unit of the proxy whose reload is USR2 to the main process': {
    ...edge,
    units: { 'edge.service': NOTIFY_EDGE },
  },
  'the shipped unit of a server with join()': {
    unit: 'shop',
    control: '/run/shop/shop.sock',
    port: 8080,
    tls: false,
    slow: '/slow',
    setup: SETUP_SHOP,
    units: { 'shop.service.d/test.conf': LIMITED },
  },
  'a unit of an unchanged program under fd-broker/auto': { ...app, units: { 'app.service': AUTO } },
  'such a unit whose main process is npm start': { ...app, units: { 'app.service': NPM } },
  'such a plain unit, without messages to systemd': { ...app, units: { 'app.service': PLAIN_NPM } },
}

describe('systemctl reload, restart, stop and kill, in every order of three', () => {
  for (const [name, { units, setup, ...orders }] of Object.entries(CASES)) {
    it.runIf(NIGHTLY && why === null)(
      `of ${name}: systemd kills no process, no request is cut, no command takes longer than its limit`,
      { timeout: 1_200_000 },
      async () => {
        const folder = mkdtempSync(join(tmpdir(), 'fdb-orders-'))
        onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
        const { cert, key } = issue(folder, 'edge', ['localhost'])
        const files = {
          'orders.json': JSON.stringify({ ...orders, steps: STEPS }),
          'setup.sh': setup,
          'edge.yaml': EDGE,
          'edge.cert': readFileSync(cert, 'utf8'),
          'edge.key': readFileSync(key, 'utf8'),
        }
        const said = await runMachine('systemd-orders-driver.mjs', files, { units, ms: 1_100_000 })
        const done = said.filter(({ step }) => step === 'order')
        const failed = done.filter(
          ({ code, ms, answers, verb }) =>
            code !== 0 ||
            ms >= LIMIT_MS ||
            answers.some((answer: string) => answer !== 'whole') ||
            verb === '',
        )
        const starts = said.filter(({ step }) => step === 'start')
        expect({ failed, starts, bad: said.find(({ step }) => step === 'end')?.bad }).toEqual({
          failed: [],
          starts: [],
          bad: [],
        })
        expect(done).toHaveLength(STEPS.length ** 3 + 2)
      },
    )
  }
})
