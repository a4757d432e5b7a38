// @ts-check
// The peers, each with the configuration that its manual gives for a change of version under load. Corrections are welcome.
import { execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { plainEnv } from '../plain-env.mjs'
import { haproxyVersion, startHaproxy } from '../proxy/haproxy.mjs'
import { nginxVersion, startNginx } from '../proxy/nginx.mjs'
import { DRAIN_S } from '../proxy/processes.mjs'
import { sozuVersion, startSozu } from '../proxy/sozu.mjs'
import { hasEnded } from '../unrelated.mjs'
import { until } from '../until.mjs'
import { Family, marked } from './processes.mjs'

/**
 * @typedef {object} Running
 * @property {Family} family
 * @property {() => Promise<void>} replace resolves when the order was carried out as far as the peer says
 * @property {() => void} end
 *
 * @typedef {object} Place
 * @property {string} folder an empty one
 * @property {number} port
 * @property {number} behind the port of the server behind a proxy
 *
 * @typedef {object} Peer
 * @property {string} name
 * @property {'proxy' | 'server'} kind
 * @property {string | null} version null: it is not installed
 * @property {string} install
 * @property {string} how what its manual says about a change of version, in a few words
 * @property {(place: Place) => Running} start
 */

const run = promisify(execFile)
const server = (/** @type {string} */ name) => fileURLToPath(new URL(`servers/${name}`, import.meta.url))
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const { version: own } = createRequire(import.meta.url)('../../package.json')
const LIMIT_MS = 30_000

/** @param {string} command @param {string[]} args @param {RegExp} [pattern] */
function versionOf(command, args, pattern = /\S.*/) {
  try {
    const text = execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return pattern.exec(text)?.[0] ?? null
  } catch {
    return null
  }
}

/** Without a call of pm2, which would start its daemon. */
function pm2Version() {
  const file = versionOf('sh', ['-c', 'realpath "$(command -v pm2)"'])
  if (file === null) return null
  const { version } = createRequire(file)('../package.json')
  return String(version)
}

let peers = 0

/** In a session of its own. @param {string} command @param {string[]} args @param {Record<string, string>} [env] @param {string} [cwd] */
function started(command, args, env = {}, cwd) {
  const mark = `${process.pid}-${++peers}`
  const family = new Family(mark)
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...plainEnv(), ...marked(mark), ...env },
    ...(cwd === undefined ? {} : { cwd }),
  })
  const pid = child.pid ?? 0
  family.addSession(pid)
  return { family, pid, mark, end: () => family.end() }
}

/** @param {string} file */
const pidIn = file => (existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0)

/** @param {{ pid: number }} running */
function inFamily({ pid }) {
  const family = new Family(`${process.pid}-${++peers}`)
  family.addSession(pid)
  return { family, end: () => family.end() }
}

/** @param {(place: Place) => string[]} args @returns {(place: Place) => Running} */
const ofFdBroker = args => place => {
  const control = join(place.folder, 'control.sock')
  const { family, end } = started(process.execPath, args(place), {
    PORT: String(place.port),
    FD_BROKER_CONTROL: control,
    FD_BROKER_PROBATION: '0',
    FD_BROKER_DRAIN: `${DRAIN_S}s`,
  })
  return {
    family,
    end,
    async replace() {
      await run(process.execPath, [CLI, 'upgrade', '--control', control])
    },
  }
}

/** @type {Peer[]} */
export const PEERS = [
  {
    name: 'fd-broker proxy',
    kind: 'proxy',
    version: own,
    install: '',
    how: '`fd-broker upgrade`',
    start: ofFdBroker(({ folder, port, behind }) => {
      const file = join(folder, 'proxy.json')
      writeFileSync(
        file,
        JSON.stringify({
          service: 'peer',
          control: join(folder, 'control.sock'),
          instanceHeader: 'X-Gen',
          listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
          upstreams: { app: { servers: [`http://127.0.0.1:${behind}`], keepAlive: { idle: '60s' } } },
          routes: [{ host: '*', upstream: 'app' }],
          upgrade: { probation: '0s' },
        }),
      )
      return [CLI, 'proxy', '--config', file, '--log-level', 'warn']
    }),
  },
  {
    name: 'nginx',
    kind: 'proxy',
    version: nginxVersion()?.replace(/.*nginx\//, '') ?? null,
    install: 'apt-get install nginx-light',
    how: 'USR2 to the master, then QUIT to the old one ("Upgrading Executable on the Fly"), `worker_shutdown_timeout`',
    start({ folder, port, behind }) {
      const { home, ...running } = startNginx({ folder, port, upstreamPort: behind, replaced: true })
      const file = join(home, 'nginx.pid')
      return {
        ...inFamily(running),
        async replace() {
          const before = pidIn(file)
          process.kill(before, 'SIGUSR2')
          await until(
            'nginx starts',
            LIMIT_MS,
            () => ![0, before].includes(pidIn(file)) && !hasEnded(pidIn(file)),
          )
          process.kill(before, 'SIGQUIT')
        },
      }
    },
  },
  {
    name: 'HAProxy',
    kind: 'proxy',
    version: haproxyVersion()?.replace(/.*version (\S+).*/, '$1') ?? null,
    install: 'apt-get install haproxy',
    how: 'master-worker mode, USR2, `hard-stop-after`',
    start({ folder, port, behind }) {
      const running = startHaproxy({ folder, port, upstreamPort: behind, replaced: true })
      return { ...inFamily(running), replace: async () => void process.kill(running.pid, 'SIGUSR2') }
    },
  },
  {
    name: 'sozu',
    kind: 'proxy',
    version: sozuVersion()?.replace(/^sozu (\S+).*/, '$1') ?? null,
    install: 'cargo install sozu',
    how: '`sozu upgrade`',
    start({ folder, port, behind }) {
      const { file, ...running } = startSozu({ folder, port, upstreamPort: behind, replaced: true })
      return {
        ...inFamily(running),
        async replace() {
          await run('sozu', ['-c', file, '--timeout', String(LIMIT_MS / 2), 'upgrade'], { timeout: LIMIT_MS })
        },
      }
    },
  },
  {
    name: 'fd-broker join()',
    kind: 'server',
    version: own,
    install: '',
    how: '`fd-broker upgrade`, [servers/fd-broker.mjs](../bench/peers/servers/fd-broker.mjs)',
    start: ofFdBroker(({ folder, port }) => [
      server('fd-broker.mjs'),
      join(folder, 'control.sock'),
      String(port),
    ]),
  },
  {
    name: 'fd-broker auto',
    kind: 'server',
    version: own,
    install: '',
    how: '`fd-broker upgrade`; the server that pm2 and node:cluster have, unchanged',
    start: ofFdBroker(() => [
      '--import',
      fileURLToPath(new URL('../../dist/auto.js', import.meta.url)),
      server('plain.mjs'),
    ]),
  },
  {
    name: 'node:cluster',
    kind: 'server',
    version: process.versions.node,
    install: '',
    how: `a next worker, then \`disconnect()\`, SIGKILL after ${DRAIN_S} s`,
    start({ port }) {
      const { family, pid, end } = started(process.execPath, [server('cluster.mjs')], { PORT: String(port) })
      return { family, end, replace: async () => void process.kill(pid, 'SIGHUP') }
    },
  },
  {
    name: 'pm2',
    kind: 'server',
    version: pm2Version(),
    install: 'npm install -g pm2',
    how: '`pm2 reload`, cluster mode, `wait_ready`',
    start({ folder, port }) {
      const env = { PM2_HOME: join(folder, 'pm2'), PORT: String(port) }
      const app = { name: 'peer', script: server('plain.mjs'), exec_mode: 'cluster', instances: 1 }
      const file = join(folder, 'ecosystem.config.json')
      const limits = { wait_ready: true, listen_timeout: 10_000, kill_timeout: DRAIN_S * 1000 }
      writeFileSync(file, JSON.stringify({ apps: [{ ...app, ...limits, env }] }))
      const { family, mark, end } = started('pm2', ['start', file, '--silent'], env)
      return {
        family,
        end,
        async replace() {
          await run('pm2', ['reload', 'peer', '--silent'], {
            env: { ...plainEnv(), ...marked(mark), ...env },
          })
        },
      }
    },
  },
  {
    name: 'gunicorn',
    kind: 'server',
    version: versionOf('gunicorn', ['--version'], /\d[\d.]+/),
    install: 'pip install gunicorn',
    how: 'USR2 to the master, then WINCH and QUIT to the old one ("Upgrading to a new binary on the fly")',
    start({ folder, port }) {
      const file = join(folder, 'gunicorn.pid')
      const limits = ['--graceful-timeout', String(DRAIN_S), '--keep-alive', '600', '--backlog', '4096']
      const threads = [
        '--worker-class',
        'gthread',
        '--workers',
        '1',
        '--threads',
        '400',
        '--worker-connections',
        '4000',
      ]
      const bind = ['--bind', `127.0.0.1:${port}`, '--pid', file, '--log-level', 'critical']
      const args = [...bind, ...threads, ...limits, 'pages:app']
      const env = { PYTHONPATH: server('.'), PYTHONDONTWRITEBYTECODE: '1' }
      const { family, end } = started('gunicorn', ['--chdir', folder, ...args], env)
      return {
        family,
        end,
        async replace() {
          const before = pidIn(file)
          const workers = family.pids.length
          process.kill(before, 'SIGUSR2')
          await until(
            'gunicorn starts',
            LIMIT_MS,
            () => pidIn(`${file}.2`) > 0 && family.pids.length >= 2 * workers,
          )
          process.kill(before, 'SIGWINCH')
          process.kill(before, 'SIGQUIT')
          await until(
            'the next gunicorn has the name of the file',
            LIMIT_MS,
            () => ![0, before].includes(pidIn(file)),
          )
        },
      }
    },
  },
  {
    name: 'tableflip',
    kind: 'server',
    version: versionOf('go', ['version'], /go\d\S+/) && `1.2.3, ${versionOf('go', ['version'], /go\d\S+/)}`,
    install: 'Go',
    how: `SIGHUP, \`Shutdown\` of ${DRAIN_S} s, [servers/tableflip](../bench/peers/servers/tableflip/main.go)`,
    start({ folder, port }) {
      const program = join(folder, 'tableflip')
      execFileSync('go', ['build', '-o', program, '.'], { cwd: server('tableflip') })
      const { family, pid, end } = started(program, [], { PORT: String(port) })
      let serving = pid
      return {
        family,
        end,
        async replace() {
          const before = family.pids
          process.kill(serving, 'SIGHUP')
          const next = () => family.pids.find(other => !before.includes(other))
          await until('the next one starts', LIMIT_MS, () => next() !== undefined)
          serving = next() ?? 0
        },
      }
    },
  },
]
