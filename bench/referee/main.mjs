// @ts-check
// The referee as a process of its own: clients of one kind. NDJSON on stdout, commands as NDJSON on stdin ({"mark":"name"},
// {"part":"inside"}, {"stop":true}).
//
//   node bench/referee/main.mjs load --target http://127.0.0.1:8080 --rate 1200 --duration 10
//   node bench/referee/main.mjs idle --port 8080 --count 10000
//
// Lines: {"type":"snapshot",...} every --every ms, {"type":"phase",...} at each mark of a load, at the end {"type":"report",...}.
// Exit code 1 when a load lost a request. Ends at --duration, {"stop":true}, SIGTERM, SIGINT, or when a stdin that was --piped
// is closed.
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { startHostile } from './hostile.mjs'
import { startIdle } from './idle.mjs'
import { startLoad } from './load.mjs'
import { numberedWorkload } from './numbered.mjs'
import { proxyWorkload } from './proxy.mjs'
import { shopWorkload } from './shop.mjs'
import { startTalks } from './talks.mjs'
import { startDownloads, startEvents, startSlow, startUploads } from './transfers.mjs'
import { Verdicts } from './verdicts.mjs'

const OF_LOAD = /** @type {const} */ ([
  'rate',
  'connections',
  'freshShare',
  'freshMost',
  'slow',
  'streams',
  'writes',
  'idle',
  'idleEveryMs',
  'deadlineMs',
  'slowExtraMs',
  'lateMs',
  'webSockets',
])
const OTHERS = /** @type {const} */ ([
  'routes',
  'lines',
  'port',
  'count',
  'full',
  'everyMs',
  'bytes',
  'stallMs',
  'ms',
  'run',
  'duration',
  'every',
])
/** An open loop with as many connections as are needed; latency counts from when a request was due. */
const STEADY = { connections: 64, stays: true, freshShare: 0.05, slow: 0, streams: 0, writes: 0, idle: 0 }

const text = { type: /** @type {const} */ ('string') }
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    target: text,
    from: { ...text, default: '127.0.0.1' },
    workload: { ...text, default: 'shop' },
    piped: { type: 'boolean', default: false },
    ...Object.fromEntries([...OF_LOAD, ...OTHERS].map(name => [name, text])),
  },
})
const given = /** @type {Record<string, string | boolean | undefined>} */ (values)

/** @param {string} name @param {number} [byDefault] */
function number(name, byDefault) {
  const value = Number(given[name] ?? byDefault)
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${name} wants a number, not ${given[name]}`)
  return value
}

/** Picks the given numbers. @param {readonly string[]} names */
const numbers = names =>
  Object.fromEntries(names.filter(name => given[name] !== undefined).map(name => [name, number(name)]))

/**
 * @typedef {object} Clients
 * @property {() => object} snapshot
 * @property {(name: string) => object} [mark]
 * @property {(part: import('./tally.mjs').Part | null) => void} [part]
 * @property {() => Promise<object>} stop resolves with the report
 */

/** @returns {Clients} */
function aLoad() {
  if (!values.target) throw new Error('--target is missing: http://HOST:PORT, unix:/path or unix:@name')
  const workload = values.workload === 'proxy' ? proxyWorkload : shopWorkload
  return startLoad({
    target: values.target,
    workload: workload(numbers(['routes', 'lines'])),
    ...numbers(OF_LOAD),
  })
}

/** @param {Verdicts} verdicts @returns {{ readonly ready: boolean, readonly open: number, mark?: (name: string) => object, stop: () => Promise<unknown> }} */
function held(verdicts) {
  const target = { host: '127.0.0.1', port: number('port'), localAddress: values.from }
  const count = number('count', 1)
  const every = numbers(['everyMs'])
  const stalling = {
    bytes: number('bytes', 50_000_000),
    stallMs: number('stallMs', 200),
    run: number('run', 1),
  }
  switch (kind) {
    case 'idle':
      return startIdle({ target, count, verdicts, ...every })
    case 'steady': {
      const rate = number('rate', 1000)
      const url = `http://127.0.0.1:${target.port}`
      const how = { ...STEADY, rate, deadlineMs: 10_000, lateMs: Number.POSITIVE_INFINITY }
      const load = startLoad({
        target: url,
        workload: numberedWorkload(),
        verdicts,
        host: 'plain.test',
        ...how,
      })
      return {
        get ready() {
          return verdicts.seen.answered > rate / 4
        },
        get open() {
          return load.open
        },
        mark(name) {
          const { name: ended, perSecond, latencyMs } = load.mark(name)
          return { name: ended, perSecond: Math.round(perSecond), ...latencyMs }
        },
        stop: load.stop,
      }
    }
    case 'ws':
    case 'tcp':
      return startTalks({ framing: kind, target, count, full: number('full', 0), verdicts, ...every })
    case 'slow':
      return startSlow({ target, count, ms: number('ms', 3000), run: `${number('run', 1)}`, verdicts })
    case 'events':
      return startEvents({ target, count, everyMs: number('everyMs', 100), verdicts })
    case 'upload':
      return startUploads({ target, count, ...stalling, verdicts })
    case 'download':
      return startDownloads({ target, count, ...stalling, verdicts })
    case 'hostile':
      return startHostile({ target, count, seed: number('run', 1), verdicts })
    default:
      throw new Error(`no such kind of clients: ${JSON.stringify(kind)}`)
  }
}

/** Clients that hold connections, with what their process took and how late it was. @returns {Clients} */
function holding() {
  const verdicts = new Verdicts()
  const clients = held(verdicts)
  let lagMs = 0
  let last = performance.now()
  const looking = setInterval(() => {
    const now = performance.now()
    lagMs = Math.max(lagMs, now - last - 10)
    last = now
  }, 10)
  const snapshot = () => {
    const { user, system } = process.cpuUsage()
    return {
      kind,
      ready: clients.ready,
      open: clients.open,
      counts: verdicts.report(),
      cpuMs: (user + system) / 1000,
      lagMs: Math.round(lagMs),
    }
  }
  return {
    snapshot,
    ...(clients.mark ? { mark: clients.mark } : {}),
    async stop() {
      await clients.stop()
      clearInterval(looking)
      return { ...snapshot(), incidents: verdicts.incidents }
    },
  }
}

const [kind = ''] = positionals
const clients = kind === 'load' ? aLoad() : holding()

/** @param {string} type @param {object} value */
const print = (type, value) => process.stdout.write(`${JSON.stringify({ type, ...value })}\n`)

const ticking = setInterval(() => print('snapshot', clients.snapshot()), number('every', 100))
let stopping = false

async function stop() {
  if (stopping) return
  stopping = true
  const report = await clients.stop()
  clearInterval(ticking)
  print('report', report)
  process.exitCode = /** @type {{ total?: { lost: number } }} */ (report).total?.lost ? 1 : 0
  process.stdin.destroy()
}

process.on('SIGTERM', stop)
process.on('SIGINT', stop)
if (given.duration) setTimeout(stop, number('duration') * 1000)
if (values.piped) {
  createInterface(process.stdin)
    .on('line', line => {
      const command = JSON.parse(line)
      if (typeof command.mark === 'string') {
        const ended = clients.mark?.(command.mark) ?? {}
        // Before the answer: the caller's next look must not see the phase that has ended.
        print('snapshot', clients.snapshot())
        print('phase', ended)
      }
      if ('part' in command) {
        clients.part?.(command.part)
        print('part', {})
      }
      if (command.stop) stop()
    })
    .on('close', stop)
}
