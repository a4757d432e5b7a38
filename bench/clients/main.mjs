// @ts-check
// Clients of one kind as a process of their own: NDJSON on stdout ({"type":"snapshot"} now and then, {"type":"report"} at the
// end), {"stop":true} or the end of stdin ends them; {"mark":"name"} is answered by `steady` with what happened since the last.
//
//   node bench/clients/main.mjs idle --http 8080 --count 10000
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { startHostile } from './hostile.mjs'
import { startIdle } from './idle.mjs'
import { startDownloads, startEvents, startSlow, startUploads } from './requests.mjs'
import { startSteady } from './steady.mjs'
import { startTalks } from './talks.mjs'
import { Verdicts } from './verdicts.mjs'

const text = { type: /** @type {const} */ ('string') }
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    port: text,
    count: { ...text, default: '1' },
    rate: { ...text, default: '1000' },
    full: { ...text, default: '0' },
    everyMs: text,
    bytes: { ...text, default: '50000000' },
    stallMs: { ...text, default: '200' },
    ms: { ...text, default: '3000' },
    from: { ...text, default: '127.0.0.1' },
    run: { ...text, default: '1' },
  },
})
const [kind = ''] = positionals
const verdicts = new Verdicts(kind)
const target = { host: '127.0.0.1', port: Number(values.port), localAddress: values.from }
const count = Number(values.count)
const every = values.everyMs === undefined ? {} : { everyMs: Number(values.everyMs) }
const stalling = { bytes: Number(values.bytes), stallMs: Number(values.stallMs), run: Number(values.run) }

/** @returns {{ readonly ready: boolean, readonly open: number, readonly pid?: number, mark?: (name: string) => object, stop: () => Promise<void> }} */
function start() {
  switch (kind) {
    case 'idle':
      return startIdle({ target, count, verdicts, ...every })
    case 'steady':
      return startSteady({ target, rate: Number(values.rate), verdicts })
    case 'ws':
    case 'tcp':
      return startTalks({ framing: kind, target, count, full: Number(values.full), verdicts, ...every })
    case 'slow':
      return startSlow({ target, count, ms: Number(values.ms), run: values.run, verdicts })
    case 'events':
      return startEvents({ target, count, everyMs: every.everyMs ?? 100, verdicts })
    case 'upload':
      return startUploads({ target, count, ...stalling, verdicts })
    case 'download':
      return startDownloads({ target, count, ...stalling, verdicts })
    case 'hostile':
      return startHostile({ target, count, seed: Number(values.run), verdicts })
    default:
      throw new Error(`no such kind of clients: ${JSON.stringify(kind)}`)
  }
}

const clients = start()
let lagMs = 0
let last = performance.now()
const looking = setInterval(() => {
  const now = performance.now()
  lagMs = Math.max(lagMs, now - last - 10)
  last = now
}, 10)

/** @param {string} type */
function print(type) {
  const { counts, incidents } = verdicts
  const { user, system } = process.cpuUsage()
  const now = {
    type,
    kind,
    ready: clients.ready,
    open: clients.open,
    pid: clients.pid ?? 0,
    counts,
    incidents: type === 'report' ? incidents : [],
    cpuMs: (user + system) / 1000,
    lagMs: Math.round(lagMs),
  }
  process.stdout.write(`${JSON.stringify(now)}\n`)
}

let stopping = false
async function stop() {
  if (stopping) return
  stopping = true
  await clients.stop()
  clearInterval(ticking)
  clearInterval(looking)
  print('report')
  process.stdin.destroy()
}

const ticking = setInterval(() => print('snapshot'), 100)
createInterface(process.stdin)
  .on('line', line => {
    const { mark, stop: ordered } = JSON.parse(line)
    if (ordered) stop()
    if (mark) process.stdout.write(`${JSON.stringify({ type: 'span', ...clients.mark?.(mark) })}\n`)
  })
  .on('close', stop)
