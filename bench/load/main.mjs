// @ts-check
// The load as a process of its own: NDJSON on stdout, commands as NDJSON on stdin ({"mark":"name"}, {"stop":true}).
//
//   node bench/load/main.mjs --target http://127.0.0.1:8080 --rate 1200 --duration 10
//
// Lines: {"type":"snapshot",...} every --every ms, {"type":"phase",...} at each mark, at the end {"type":"report",...}.
// Exit code 1 when a request was lost. Ends at --duration, {"stop":true}, SIGTERM, SIGINT, or when stdin was a pipe
// that closed.
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { startLoad } from './load.mjs'
import { proxyWorkload } from './proxy.mjs'
import { shopWorkload } from './shop.mjs'

const NUMBERS = /** @type {const} */ ([
  'rate',
  'connections',
  'freshShare',
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

const text = { type: /** @type {const} */ ('string') }
const { values } = parseArgs({
  options: {
    target: text,
    routes: text,
    lines: text,
    workload: { ...text, default: 'shop' },
    duration: text,
    every: { ...text, default: '250' },
    piped: { type: 'boolean', default: false },
    ...Object.fromEntries(NUMBERS.map(name => [name, text])),
  },
})
const given = /** @type {Record<string, string | boolean | undefined>} */ (values)

/** @param {string} name */
function number(name) {
  const value = Number(given[name])
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${name} wants a number, not ${given[name]}`)
  return value
}

if (!values.target) throw new Error('--target is missing: http://HOST:PORT, unix:/path or unix:@name')
const load = startLoad({
  target: values.target,
  workload: (values.workload === 'proxy' ? proxyWorkload : shopWorkload)({
    ...(given.routes ? { routes: number('routes') } : {}),
    ...(given.lines ? { lines: number('lines') } : {}),
  }),
  ...Object.fromEntries(NUMBERS.filter(name => given[name] !== undefined).map(name => [name, number(name)])),
})

/** @param {string} type @param {object} value */
const print = (type, value) => process.stdout.write(`${JSON.stringify({ type, ...value })}\n`)

const ticking = setInterval(() => print('snapshot', load.snapshot()), number('every'))
let stopping = false

async function stop() {
  if (stopping) return
  stopping = true
  const report = await load.stop()
  clearInterval(ticking)
  print('report', report)
  process.exitCode = report.total.lost > 0 ? 1 : 0
  process.stdin.destroy()
}

process.on('SIGTERM', stop)
process.on('SIGINT', stop)
if (given.duration) setTimeout(stop, number('duration') * 1000)
if (values.piped) {
  createInterface(process.stdin)
    .on('line', line => {
      const command = JSON.parse(line)
      if (typeof command.mark === 'string') print('phase', load.mark(command.mark))
      if (command.stop) stop()
    })
    .on('close', stop)
}
