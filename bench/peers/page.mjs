// @ts-check
// The results as rows of a table, and as docs/benchmark.md.
import { machine } from '../report.mjs'

/** @typedef {{ peer: import('./peers.mjs').Peer, seen: import('./measure.mjs').Seen }} Result */

export const COLUMNS = [
  'failed',
  'closed',
  'cut',
  'first answer, ms',
  'old gone, s',
  'p99 between, ms',
  'p99 after the order, ms',
  'CPU a request, µs',
  'memory, MiB',
  'with two versions',
]

/** @param {number} value @param {number} [digits] */
const shown = (value, digits = 0) => (Number.isNaN(value) ? '–' : value.toFixed(digits))

/** @param {Result} result */
export function rowOf({ peer, seen }) {
  const { failed, closed, cut, firstMs, oldS, outside, inside, cpuUs, memoryMiB, peakMiB } = seen
  return [
    peer.name,
    String(failed),
    String(closed),
    String(cut),
    shown(firstMs),
    oldS === Number.POSITIVE_INFINITY ? 'never' : shown(oldS, 1),
    shown(outside, 1),
    shown(inside, 1),
    shown(cpuUs),
    shown(memoryMiB),
    shown(peakMiB),
  ]
}

/** @param {string[]} cells */
const line = cells => `| ${cells.join(' | ')} |`

/** A bar for each, which GitHub draws. @param {string} title @param {string} axis @param {Result[]} results @param {(seen: import('./measure.mjs').Seen) => number} of */
function plot(title, axis, results, of) {
  const names = results.map(({ peer }) => JSON.stringify(peer.name))
  const values = results.map(({ seen }) => of(seen))
  return [
    '```mermaid',
    'xychart-beta horizontal',
    `  title ${JSON.stringify(title)}`,
    `  x-axis [${names.join(', ')}]`,
    `  y-axis ${JSON.stringify(axis)}`,
    `  bar [${values.map(value => Number(value.toFixed(1))).join(', ')}]`,
    '```',
  ]
}

/** @param {Result[]} results @param {import('./measure.mjs').Load} load */
export function page(results, { upgrades, seconds, rate, idle, slow, events, oldS }) {
  const parts = [
    '# Losses of clients at a change of version',
    '',
    `Written by \`npm run bench -- peers --page docs/benchmark.md\`, on ${machine()}. ${upgrades} changes of version each, under the same load: ${rate} requests a second on 64 connections that stay and on new ones (one in twenty), ${idle} idle connections, ${slow} answers of 3 s at a time, ${events} event streams. Proxies stand before the same server in Node. One worker each. A previous version may live for 10 s. The configurations are in [bench/peers](../bench/peers): corrections are welcome.`,
    '',
    '- **failed**: requests that were refused, reset or not answered, also those that were on the way when the server closed a connection',
    '- **closed**: connections of HTTP/1.1 that the server ended, with `Connection: close` or without, although the client kept them',
    `- **cut**: slow answers and event streams that ended too early (of ${events} streams; one that ended is not opened again)`,
    '- **first answer**: from the order until the next version has answered a new connection, median',
    `- **old gone**: from the order until the previous version has ended, median; never: not within ${oldS} s`,
    '- **p99 after the order**: of the requests of its first 4 s, median; **between**: of the other times',
    '- **memory**: proportional (PSS) of all its processes between changes, and the most during one',
  ]
  for (const [kind, title] of [
    ['proxy', 'Proxies'],
    ['server', 'Servers'],
  ]) {
    const some = results.filter(({ peer }) => peer.kind === kind)
    if (some.length === 0) continue
    parts.push('', `## ${title}`, '')
    parts.push(line(['', ...COLUMNS]), line(['---', ...COLUMNS.map(() => '--:')]))
    for (const result of some) parts.push(line(rowOf(result)))
    /** @param {import('./measure.mjs').Seen} seen */
    const lost = ({ failed, closed, cut }) => failed + closed + cut
    parts.push('', ...plot('Requests, connections and streams lost', 'lost', some, lost))
    parts.push('', ...plot('p99 after the order', 'ms', some, ({ inside }) => inside))
    parts.push('', '| | version | change of version |', line(['---', '---', '---']))
    for (const { peer } of some) parts.push(line([peer.name, peer.version ?? '', peer.how]))
  }
  parts.push(
    '',
    `Measured with ${seconds} s between two changes. One run on one machine: ratios of another run differ, losses seldom.`,
  )
  return `${parts.join('\n')}\n`
}
