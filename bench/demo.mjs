// @ts-check
// npm run demo: shows the main job. The reference proxy serves 10,000 routes, made at run time, under an open-loop load with
// WebSockets, and is replaced five times by an unrelated process. `-- --app shop` shows the example app
// instead (`-- --app FILE` any that takes the same flags), `-- --naive` stops and starts: that must show losses, or the
// referee is blind. Exit code 1 when a request was lost or late, clients waited too long for any answer, or p99 in the windows of
// upgrades is too far from that between them.
//
// `p99 in`: of the requests with any part in the window of an upgrade, which is from the start of the new process until the end of the old one, whose
// connections have moved by then, and at least until half a second after the new one's first answer; `p99 out`: of those wholly between two windows. The
// time in which this process asks for the status, by a command, is in neither.
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { App } from './app.mjs'
import { startEdge } from './proxy/edge.mjs'
import { spawnLoad } from './referee/remote.mjs'
import { LOSSES, lost } from './referee/verdicts.mjs'
import { Figures, Progress, table } from './report.mjs'
import { phasesOf, status } from './status.mjs'
import { recordTimeline, writeTimeline } from './timeline.mjs'

/** @typedef {import('./referee/tally.mjs').TallyReport} TallyReport */
/** @typedef {{ name: string, pid: number, ms: number | null, phases: string, moved: number | null, drained: number | null }} Upgrade */

const { values: flags } = parseArgs({
  options: {
    naive: { type: 'boolean', default: false },
    upgrades: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1200' },
    routes: { type: 'string', default: '10000' },
    every: { type: 'string', default: '5' },
    app: { type: 'string', default: 'proxy' },
    webSockets: { type: 'string', default: '20' },
    json: { type: 'string' },
  },
})
const upgradeCount = Number(flags.upgrades)
const routes = Number(flags.routes)
const everyMs = Number(flags.every) * 1000

/** The picture of the last upgrade. */
const TIMELINE = fileURLToPath(new URL('../build/upgrade.html', import.meta.url))

/** The longest time in which no client gets an answer. */
const GAP_MS = 250
/** In the windows of upgrades p99 is at most this, or so many times that between them where the machine is slow. */
const P99_MS = 50
const P99_TIMES = 5
const MOST_P99_MS = 500

/** A referee that waits longer than this for a processor runs on a busy machine. */
const BUSY_MS = 50

/** All connections that can move have moved by then. */
const SETTLE_MS = 1000

const progress = new Progress()
/** @type {Upgrade[]} */
const upgrades = []
/** @type {TallyReport[]} */
const finished = []

const isProxy = flags.app === 'proxy'
const file = flags.app === 'shop' ? undefined : flags.app
progress.say(`starting ${flags.app} with ${routes} routes ...`)
const { app, end } = isProxy
  ? await startEdge({ routes, naive: flags.naive })
  : { app: await App.start({ file, routes, naive: flags.naive }), end: () => {} }
upgrades.push({ name: 'start', pid: app.pid, ms: null, phases: '', moved: null, drained: null })
const load = spawnLoad({
  target: app.target,
  rate: Number(flags.rate),
  routes,
  every: 50,
  ...(isProxy ? { workload: 'proxy', webSockets: Number(flags.webSockets) } : {}),
})
try {
  for (let number = 1; number <= upgradeCount; number++) {
    await watch(number === 1 ? 2000 : everyMs)
    finished.push(await load.mark(`upgrade ${number}`))
    const recorder = number === upgradeCount && !flags.naive ? await recordTimeline(app.control, load) : null
    await replace(`upgrade ${number}`)
    const { ms = null, pid } = upgrades.at(-1) ?? {}
    const text =
      ms === null
        ? 'The upgrade failed: the new version does not serve.'
        : `The upgrade succeeded: process ${pid} answered a client ${ms.toFixed(0)} ms after its start.`
    if (recorder !== null) await writeTimeline(recorder, TIMELINE, { ok: ms !== null, text })
  }
  await watch(everyMs)
  const report = await load.stop()
  progress.clear()
  print(report)
} finally {
  load.kill()
  await app.end()
  end()
}

/** One upgrade: done when the new process has answered a client. @param {string} name */
async function replace(name) {
  const old = app.pid
  await load.part('inside')
  const ms = await app.replace(pid => generations().some(id => id.endsWith(`/${pid}`)))
  await app.windowEnds()
  await load.part(null)
  const after = flags.naive ? null : await settled()
  const phases = flags.naive ? 'stop, start' : phasesOf(after)
  const moved = after?.moves?.arrived ?? null
  upgrades.push({ name, pid: app.pid, ms, phases, moved, drained: after === null ? null : leftIn(after) })
  const outcome =
    ms === null ? `NOT DONE; the app says:\n${app.output}` : `first answer after ${ms.toFixed(0)} ms`
  await load.part('outside')
  progress.say(`${name}: pid ${old} -> ${app.pid}, ${outcome}`)
}

/** Connections of older processes that have not moved: they end in their own time. @param {Record<string, any>} status */
function leftIn(status) {
  /** @type {{ connections: number }[]} */
  const draining = status.draining ?? []
  return draining.reduce((sum, { connections }) => sum + connections, 0)
}

/** The status when all that can move has moved, or after a second. */
async function settled() {
  const give = performance.now() + SETTLE_MS
  let answer = await status(app.control)
  while (answer !== null && leftIn(answer) > 0 && performance.now() < give) answer = await status(app.control)
  return answer
}

function generations() {
  return Object.keys(load.snapshot()?.phase.generations ?? {})
}

/** Shows progress for a while. @param {number} ms */
async function watch(ms) {
  const until = performance.now() + ms
  while (performance.now() < until) {
    await new Promise(resolve => setTimeout(resolve, 200))
    const now = load.snapshot()
    // In the first second the rate is not yet known.
    if (!now || now.seconds < 1) continue
    const current = { ...now.phase, name: `${now.phase.name} ...` }
    progress.show(
      rows([...finished, current]),
      `${now.seconds.toFixed(0)} s: ${now.phase.name}, ${now.perSecond.toFixed(0)} requests/s, ${now.lost} lost, worst gap ${now.phase.worstGapMs} ms`,
    )
  }
}

/** @param {TallyReport[]} phases */
function rows(phases) {
  const heading = [
    '',
    'pid',
    'took ms',
    'moved',
    'drained',
    'closed',
    'req/s',
    'p99 ms',
    'p99 in',
    'p99 out',
    'max ms',
    'gap ms',
    ...LOSSES,
    'late',
  ]
  const lines = phases.map((phase, at) => [
    phase.name,
    upgrades[at]?.pid ?? '',
    upgrades[at]?.ms?.toFixed(0) ?? '',
    upgrades[at]?.moved ?? '',
    upgrades[at]?.drained ?? '',
    phase.counts.closedIdle,
    phase.perSecond.toFixed(0),
    phase.latencyMs.p99.toFixed(1),
    ...[phase.parts.inside, phase.parts.outside].map(({ count, p99 }) => (count > 0 ? p99.toFixed(1) : '')),
    phase.latencyMs.max.toFixed(0),
    phase.worstGapMs.toFixed(0),
    ...LOSSES.map(kind => phase.counts[kind]),
    phase.counts.late,
  ])
  return table([heading, ...lines])
}

/** @param {import('./referee/load.mjs').LoadReport} report */
function print({ total, phases, incidents, webSockets, ownLagMs }) {
  console.log(
    `\n${flags.naive ? 'stop and start' : 'upgrade by an unrelated process'}: ${flags.app}, ${routes} routes\n`,
  )
  console.log(rows(phases).join('\n'))
  if (!flags.naive) {
    console.log('\nphases (ms):')
    for (const { name, phases: times } of upgrades.slice(1))
      console.log(`  ${name}: ${times || 'status gave none'}`)
  }
  if (incidents.length > 0) {
    console.log('\nthe first incidents:')
    for (const { atMs, phase, kind, what, reason } of incidents.slice(0, 8)) {
      console.log(`  ${(atMs / 1000).toFixed(2)} s, ${phase}: ${kind}: ${what}: ${reason}`)
    }
  }
  const figures = new Figures(flags.naive ? 'demo --naive' : 'demo')
  figures.add('upgrades', upgrades.filter(({ ms }) => ms !== null).length, '', '=', upgradeCount)
  for (const kind of LOSSES) figures.add(kind, total.counts[kind], 'requests', '=', 0)
  figures.add('rate', total.perSecond, 'requests/s', '>=', 1000)
  if (isProxy) {
    figures.add('WebSockets opened', webSockets.opened, '', '>=', Number(flags.webSockets))
    figures.add('messages echoed', webSockets.messages, '', '>', 0)
  }
  const moved = upgrades.reduce((sum, each) => sum + (each.moved ?? 0), 0)
  const { closedIdle } = total.counts
  if (isProxy && !flags.naive) {
    figures.add('connections moved', moved, '', '>', 0)
    figures.add('closed while idle', closedIdle, 'connections', '=', 0)
  } else {
    figures.info('connections moved', moved, '')
    figures.info('closed while idle', closedIdle, 'connections')
  }
  figures.add('answered after more than a second', total.counts.late, 'requests', '=', 0)
  figures.info('writes retried', total.counts.retried, 'requests')
  // The referee sees no answer while it has no processor itself.
  figures.add('worst gap', total.worstGapMs, 'ms', '<=', GAP_MS + Math.min(ownLagMs, GAP_MS))
  figures.info('latency p99', total.latencyMs.p99, 'ms')
  const { inside, outside } = total.parts
  figures.add('requests in the windows of upgrades', inside.count, '', '>', 0)
  figures.add(
    'latency p99 in the windows of upgrades',
    inside.p99,
    'ms',
    '<=',
    Math.min(MOST_P99_MS, Math.max(P99_MS, P99_TIMES * outside.p99)),
  )
  figures.info('latency p99 between them', outside.p99, 'ms')
  figures.info('the first, of the second', inside.p99 / outside.p99, 'x')
  figures.info('latency max', total.latencyMs.max, 'ms')
  figures.info("the referee's own lag, at most", ownLagMs, 'ms')
  const bad = figures.finish(flags.json)
  if (!flags.naive)
    console.log(`\nthe last upgrade as a picture, for a browser: ${relative(process.cwd(), TIMELINE)}`)
  const broken = lost(total.counts) - total.counts.dropped
  if (bad > 0 && broken === 0 && ownLagMs > BUSY_MS)
    console.log(
      `No connection was refused or broken. The machine was busy: the load generator itself waited up to ${ownLagMs.toFixed(0)} ms for a processor, so answers that came late, or not within 5 s (dropped), may be the machine's. Run the demo again when nothing else runs.`,
    )
}
