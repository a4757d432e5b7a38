// @ts-check
// npm run bench -- connections: what it costs to move 100, 1,000 and 10,000 connections (nine idle, one WebSocket that talks, each)
// to the next process, under load, on each side; beside what two C processes need to pass as many descriptors with nothing else,
// and beside the same upgrade with `drain.move: off`, in one run.
// Options: --sizes 100,1000,10000 --rounds 3 --rate 500 --json FILE
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildBaseline } from '../fds/pair.mjs'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { prove } from './prove.mjs'

/** @typedef {import('./prove.mjs').Proof} Proof */
/** @typedef {import('./prove.mjs').Upgrade} Upgrade */

const { values: flags } = parseArgs({
  options: {
    sizes: { type: 'string', default: '100,1000,10000' },
    rounds: { type: 'string', default: '3' },
    rate: { type: 'string', default: '500' },
    json: { type: 'string' },
  },
})
const sizes = flags.sizes.split(',').map(Number)
const rounds = Number(flags.rounds)
const rate = Number(flags.rate)
/** Without moves most of the drain is waiting: one is enough. */
const ROUNDS_OFF = 1
/** The first wave takes 250 ms, and the others follow during 750 ms: half as much again for the machine. */
const EMPTY_MS = 1_500
/** Ten turns of 4 ms, or the waits of a busy machine: two processors for both processes, the clients, the servers and the load. A stall is longer. */
const LATE_MS = 40
/** As many in a message as a slice has at most. */
const FDS_A_MESSAGE = 249

const progress = new Progress()

/** @param {number} size @param {'auto' | 'off'} move @returns {Promise<Proof>} */
function run(size, move) {
  return prove({
    clients: [
      { kind: 'idle', count: Math.round(size * 0.9), everyMs: 60_000 },
      { kind: 'ws', count: Math.round(size * 0.1), everyMs: 1_000 },
    ],
    rate,
    upgrades: move === 'auto' ? rounds : ROUNDS_OFF,
    everyMs: 1_000,
    quietMs: 5_000,
    // Without moves an idle client stays until its connection is cut: the referee counts after two seconds.
    scene: {
      fds: 20_000,
      limits: { connections: 14_000 },
      everyMs: 1_000,
      drain: { move, timeout: move === 'auto' ? '5m' : '2s' },
    },
    say: line => progress.show([line], `${size} connections, move: ${move}: ${line}`),
  })
}

/** µs of C for one descriptor there and closed. @param {ReturnType<typeof buildBaseline>} baseline @param {number} fds */
function bareMicroseconds(baseline, fds) {
  const messages = Math.max(20, Math.ceil(fds / FDS_A_MESSAGE))
  const times = [1, 2, 3, 4, 5].map(() =>
    baseline.run({ mode: 'raw', count: FDS_A_MESSAGE, messages, window: 1 }),
  )
  // The first tenth is not measured there.
  return (median(times) * 1e6) / (messages * FDS_A_MESSAGE * 0.9)
}

/** CPU time of one side for one connection, in µs. @param {Upgrade} upgrade @param {'sender' | 'receiver'} side @param {number} quietShare */
function cpuEach({ moved, emptyMs, ...sides }, side, quietShare) {
  const { cpu } = sides[side]
  // The receiver has the listeners, and with them the load.
  const load = side === 'receiver' ? quietShare * (emptyMs ?? 0) : 0
  return ((cpu - load) * 1000) / moved
}

const heading = [
  'connections',
  'moved',
  'all moved ms',
  'stall giver',
  'stall taker',
  'late giver',
  'late taker',
  'us giver',
  'us taker',
  'us bare C',
  'p99 before',
  'in the move',
  'max before',
  'in the move',
  'closed',
]
/** @type {(string | number)[][]} */
const rows = []
/** The bar, relative to p99 in an upgrade that moves nothing. */
const MOST_OF_DRAIN = 5
const figures = new Figures('connections')
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
try {
  const baseline = buildBaseline(folder)
  for (const size of sizes) {
    const proof = await run(size, 'auto')
    const { upgrades, quiet, quietLoad } = proof
    const of = (/** @type {(each: Upgrade) => number} */ value) => median(upgrades.map(value))
    const quietShare = quiet.cpu / 5_000
    const bare = bareMicroseconds(baseline, size)
    const [sender, receiver] = [
      of(each => cpuEach(each, 'sender', quietShare)),
      of(each => cpuEach(each, 'receiver', quietShare)),
    ]
    const lost = proof.clients.reduce(
      (sum, { counts }) => sum + counts.closed + counts.failed + counts.wrong,
      0,
    )
    rows.push([
      size,
      of(each => each.moved),
      of(each => each.emptyMs ?? Number.NaN).toFixed(0),
      of(each => each.givingMs).toFixed(1),
      of(each => each.takingMs).toFixed(1),
      of(each => each.sender.late).toFixed(0),
      of(each => each.receiver.late).toFixed(0),
      sender.toFixed(0),
      receiver.toFixed(0),
      bare.toFixed(1),
      quietLoad.p99.toFixed(1),
      of(each => each.load.p99).toFixed(1),
      quietLoad.max.toFixed(0),
      of(each => each.load.max).toFixed(0),
      lost,
    ])
    const off = await run(size, 'off')
    const [drained] = off.upgrades
    const cut = off.clients.reduce((sum, { counts }) => sum + counts.closed + counts.failed, 0)
    rows.push([
      `${size}, off`,
      '',
      '',
      '',
      '',
      drained?.sender.late.toFixed(0) ?? '',
      drained?.receiver.late.toFixed(0) ?? '',
      '',
      '',
      '',
      off.quietLoad.p99.toFixed(1),
      drained?.load.p99.toFixed(1) ?? '',
      off.quietLoad.max.toFixed(0),
      drained?.load.max.toFixed(0) ?? '',
      cut,
    ])
    figures.add(`${size}: closed, failed or wrong`, lost, 'clients', '=', 0)
    // Without moves the clients must notice the upgrade: otherwise this load would prove nothing.
    figures.add(`${size}: closed or failed without moves`, cut, 'clients', '>', 0)
    figures.add(
      `${size}: all moved after the commit`,
      of(each => each.emptyMs ?? Number.NaN),
      'ms',
      '<=',
      EMPTY_MS,
    )
    figures.add(
      `${size}: a timer of either process, late`,
      Math.max(
        of(each => each.sender.late),
        of(each => each.receiver.late),
      ),
      'ms',
      '<=',
      LATE_MS,
    )
    figures.info(`${size}: CPU a connection, sender`, sender / bare, 'of bare C, both sides, a descriptor')
    figures.info(
      `${size}: CPU a connection, receiver`,
      receiver / bare,
      'of bare C, both sides, a descriptor',
    )
    figures.info(`${size}: p99 in the move`, of(each => each.load.p99) / quietLoad.p99, 'of before')
    figures.add(
      `${size}: p99 in an upgrade with moves`,
      of(each => each.load.p99) / (drained?.load.p99 ?? Number.NaN),
      'of one without',
      '<=',
      MOST_OF_DRAIN,
    )
  }
} finally {
  rmSync(folder, { recursive: true })
}
progress.clear()
console.log(
  `ms; stall: the longest that moves held up one turn; late: the most that a timer was; p99 and max of ${rate} requests a second\n`,
)
console.log(table([heading, ...rows]).join('\n'))
figures.finish(flags.json)
