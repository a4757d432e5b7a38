/**
 * Runs the exploration as a command:
 *
 *     tsx test/exploration/main.ts 2p|3p [-n 3] [-w 2] [-c] [--crash 1] [--stop 1] [--cut 1] [--back 1] [--restarts 1]
 *       [--fail 1] [--lag] [--leave 1] [--absent 1] [--silent 1] [--work] [--busy 1] [--lasting] [--segments 9] [--atomic] [--off rule,rule | --each] [--max 3000000] [--all] [--ends]
 *
 * `-c`: a live connection moves too. `--atomic`: the effects of one step happen all at once. `--each`: switch each
 * rule off alone, stop at the first violation. `--all`: go on after a violation. `--ends`: check that from every
 * state one can be reached where nothing more has to happen.
 */
import { parseArgs } from 'node:util'
import { RULES, type Rules } from '../../src/handoff/rules.js'
import { BOUNDS, type Bounds } from './bounds.js'
import { line } from './line.js'
import { explore } from './search.js'
import { worldOf } from './spaces.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    n: { type: 'string', short: 'n' },
    w: { type: 'string', short: 'w' },
    c: { type: 'boolean', short: 'c' },
    forward: { type: 'boolean' },
    crash: { type: 'string' },
    stop: { type: 'string' },
    cut: { type: 'string' },
    back: { type: 'string' },
    restarts: { type: 'string' },
    renewals: { type: 'string' },
    fail: { type: 'string' },
    lag: { type: 'boolean' },
    leave: { type: 'string' },
    absent: { type: 'string' },
    silent: { type: 'string' },
    segments: { type: 'string' },
    atomic: { type: 'boolean' },
    work: { type: 'boolean' },
    busy: { type: 'string' },
    lasting: { type: 'boolean' },
    off: { type: 'string' },
    each: { type: 'boolean' },
    all: { type: 'boolean' },
    ends: { type: 'boolean' },
    max: { type: 'string' },
  },
})
const number = (text: string | undefined, otherwise: number): number =>
  text === undefined ? otherwise : Number(text)
const bounds: Bounds = {
  processes: number(values.n, BOUNDS.processes),
  writes: number(values.w, BOUNDS.writes),
  forward: values.forward ?? BOUNDS.forward,
  connection: values.c ?? BOUNDS.connection,
  crash: number(values.crash, BOUNDS.crash),
  stop: number(values.stop, BOUNDS.stop),
  cut: number(values.cut, BOUNDS.cut),
  back: number(values.back, BOUNDS.back),
  restarts: number(values.restarts, BOUNDS.restarts),
  renewals: number(values.renewals, BOUNDS.renewals),
  fail: number(values.fail, BOUNDS.fail),
  lag: values.lag ?? BOUNDS.lag,
  leave: number(values.leave, BOUNDS.leave),
  absent: number(values.absent, BOUNDS.absent),
  silent: number(values.silent, BOUNDS.silent),
  segments: number(values.segments, BOUNDS.segments),
  atomic: values.atomic ?? BOUNDS.atomic,
  work: values.work ?? BOUNDS.work,
  busy: number(values.busy, BOUNDS.busy),
  lasting: values.lasting ?? BOUNDS.lasting,
}
const parties = positionals[0] === '3p' ? 3 : 2
const run = (off: readonly string[], title: string): void => {
  const rules: Rules = { ...RULES, ...Object.fromEntries(off.map(rule => [rule, false])) }
  const report = explore(worldOf({ parties, bounds }, rules), {
    states: number(values.max, 3_000_000),
    violations: values.all ? 12 : 1,
    ends: values.ends ?? false,
  })
  console.log(line(title, report))
}
if (values.each) for (const rule of Object.keys(RULES)) run([rule], `without ${rule}`)
else {
  const off = (values.off ?? '').split(',').filter(rule => rule !== '')
  run(off, off.length === 0 ? `${positionals[0]} all rules` : `without ${off.join(', ')}`)
}
