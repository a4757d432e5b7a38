// @ts-check
// npm run bench -- fds: descriptors a second through the addon, as a share of what two C processes reach with the same system
// calls; and one descriptor's round trip against child_process.send. All in one run, in turns, medians.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { median } from '../median.mjs'
import { Figures, Progress, table } from '../report.mjs'
import { buildBaseline, startPair } from './pair.mjs'
import { overChannel, overChildProcess } from './round-trip.mjs'

const { values: flags } = parseArgs({
  options: { rounds: { type: 'string', default: '11' }, json: { type: 'string' } },
})
const rounds = Number(flags.rounds)
const SIZES = [1, 16, 64, 253]
/** C's own `verified` costs six times its `raw`: fewer descriptors, so that rounds stay short. */
const RUNS = /** @type {const} */ ([
  { mode: 'raw', fds: 150_000 },
  { mode: 'owned', fds: 150_000 },
  { mode: 'verified', fds: 50_000 },
])
/** Messages in flight: what the receiver's descriptor table and the kernel's limits easily hold. */
const WINDOW = 8

const progress = new Progress()
const folder = mkdtempSync(join(tmpdir(), 'fd-broker-bench-'))
const baseline = buildBaseline(folder)
const pair = await startPair()

/** @type {(string | number)[][]} */
const rows = [['descriptors a message', 'mode', 'C k/s', 'ours k/s', 'ours / C']]
/** @type {Map<string, number>} */
const shares = new Map()
for (const count of SIZES) {
  for (const { mode, fds } of RUNS) {
    const messages = Math.min(Math.ceil(fds / count), 20_000)
    const run = { mode, count, messages, window: WINDOW }
    /** @type {{ ours: number, bare: number }[]} */
    const seconds = []
    // The first round warms the code up and is thrown away.
    for (let round = 0; round <= rounds; round++) {
      const line = `${mode} at ${count} a message: round ${round} of ${rounds}`
      progress.show([...table(rows), line], line)
      // In turns, and each goes first as often as the other.
      let bare = round % 2 === 0 ? baseline.run(run) : 0
      const ours = await pair.run(run)
      if (bare === 0) bare = baseline.run(run)
      if (round > 0) seconds.push({ ours, bare })
    }
    const perSecond = (/** @type {number} */ time) => (messages * count * 0.9) / time / 1000
    const bare = median(seconds.map(pair => pair.bare))
    const ours = median(seconds.map(pair => pair.ours))
    const share = median(seconds.map(pair => pair.bare / pair.ours))
    shares.set(`${mode} ${count}`, share)
    rows.push([count, mode, perSecond(bare).toFixed(0), perSecond(ours).toFixed(0), share.toFixed(2)])
  }
}
pair.close()

const channel = overChannel()
const ipc = await overChildProcess()
/** @type {number[][]} */
const times = [[], []]
for (let round = 0; round <= rounds; round++) {
  progress.show(
    [...table(rows), `round trips: round ${round} of ${rounds}`],
    `round trips: round ${round} of ${rounds}`,
  )
  const both = [await channel.run(300), await ipc.run(300)]
  if (round > 0) both.forEach((each, at) => void times[at]?.push(median(each)))
}
channel.close()
ipc.close()
rmSync(folder, { recursive: true })

progress.clear()
console.log(table(rows).join('\n'))
const [ours = 0, node = 0] = times.map(median)
console.log(
  `\none descriptor there and back: Channel ${(ours * 1000).toFixed(0)} us, child_process.send ${(node * 1000).toFixed(0)} us`,
)

const share = (/** @type {string} */ name) => shares.get(name) ?? 0
const figures = new Figures('fds')
figures.add('raw, 253 a message', share('raw 253'), 'of bare C', '>=', 0.9)
figures.info('owned, 253 a message', share('owned 253'), 'of bare C')
/** The calls are most of it. */
const LEAST_VERIFIED = 0.5
figures.add(
  'owned and verified, 253 a message',
  share('verified 253'),
  'of C with the same calls',
  '>=',
  LEAST_VERIFIED,
)
for (const count of SIZES.slice(0, -1)) {
  figures.info(`raw, ${count} a message`, share(`raw ${count}`), 'of bare C')
  figures.add(
    `owned and verified, ${count} a message`,
    share(`verified ${count}`),
    'of C with the same calls',
    '>=',
    LEAST_VERIFIED,
  )
}
figures.add('round trip of one descriptor', ours / node, 'of child_process.send', '<', 1)
figures.finish(flags.json)
