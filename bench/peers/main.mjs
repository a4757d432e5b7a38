// @ts-check
// npm run bench -- peers: changes of version under load, of fd-broker and of the installed ones of nginx, HAProxy, sozu, tableflip,
// node:cluster, pm2 and gunicorn, seen by the same clients: `steady` requests on connections that stay and on new ones, idle connections,
// slow answers and event streams. Proxies stand before the same server. Prints a table; with --page FILE also writes the page
// docs/benchmark.md with its plots. For a peer that is not installed the bench names the command that installs it. About 45 s each.
// Options: --upgrades 3 --seconds 5 (between upgrades) --rate 1000 --idle 200 --slow 10 --events 20 --old 15 (seconds that the
// bench waits for the end of the previous version) --only nginx,pm2 --page FILE --json FILE
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Figures, Progress, table } from '../report.mjs'
import { measure } from './measure.mjs'
import { COLUMNS, page, rowOf } from './page.mjs'
import { PEERS } from './peers.mjs'

const text = /** @type {const} */ ('string')
const { values: flags } = parseArgs({
  options: {
    upgrades: { type: text, default: '3' },
    seconds: { type: text, default: '5' },
    rate: { type: text, default: '1000' },
    idle: { type: text, default: '200' },
    slow: { type: text, default: '10' },
    events: { type: text, default: '20' },
    old: { type: text, default: '15' },
    only: { type: text },
    page: { type: text },
    json: { type: text },
  },
})
const load = {
  upgrades: Number(flags.upgrades),
  seconds: Number(flags.seconds),
  rate: Number(flags.rate),
  idle: Number(flags.idle),
  slow: Number(flags.slow),
  events: Number(flags.events),
  oldS: Number(flags.old),
}
const OURS = 'fd-broker'
const only = flags.only?.split(',')
const wanted = PEERS.filter(({ name }) => only?.some(each => name.startsWith(each)) ?? true)
const installed = wanted.filter(({ version }) => version !== null)
const progress = new Progress()
const figures = new Figures('peers')
/** @type {import('./page.mjs').Result[]} */
const results = []

for (const [at, peer] of installed.entries()) {
  const folder = mkdtempSync(join(tmpdir(), 'fd-broker-peers-'))
  const say = (/** @type {string} */ what) => {
    const line = `${peer.name} (${at + 1} of ${installed.length}): ${what}`
    progress.show([line], line)
  }
  try {
    results.push({ peer, seen: await measure(peer, folder, load, say) })
  } catch (error) {
    progress.say(`${peer.name}: ${error instanceof Error ? error.message : error}`)
    figures.add(`${peer.name}: measured`, 0, '', '=', 1)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
progress.clear()
for (const kind of ['proxy', 'server']) {
  const rows = results.filter(({ peer }) => peer.kind === kind).map(rowOf)
  if (rows.length > 0) console.log(`\n${table([[kind, ...COLUMNS], ...rows]).join('\n')}`)
}
for (const { name, install } of wanted.filter(({ version }) => version === null))
  console.log(`not installed: ${name} (${install})`)
for (const { peer, seen } of results) {
  const { failed, closed, cut, reasons, failures } = seen
  for (const failure of failures) console.log(`${peer.name}: the order failed: ${failure}`)
  for (const reason of reasons) console.log(`${peer.name}: ${reason}`)
  if (!peer.name.startsWith(OURS)) figures.info(`${peer.name}: lost in all`, failed + closed + cut, '')
  else {
    figures.add(`${peer.name}: failed requests`, failed, '', '=', 0)
    figures.add(`${peer.name}: closed connections`, closed, '', '=', 0)
    // Without a line of code for them, streams end between two events.
    if (!peer.name.endsWith('auto')) figures.add(`${peer.name}: cut answers`, cut, '', '=', 0)
  }
}
if (flags.page !== undefined) writeFileSync(flags.page, page(results, load))
figures.finish(flags.json)
