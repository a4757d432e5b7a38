import type { Rules } from '../../src/handoff/rules.js'
import { BOUNDS, type Bounds, rulesOf } from './bounds.js'
import { PARTS, type Parts } from './parts.js'
import { ThreeParties } from './three-parties.js'
import { TwoParties } from './two-parties.js'
import type { World } from './world.js'

/** A space that is explored to its end. */
export interface Space {
  readonly name: string
  readonly parties: 2 | 3
  readonly bounds: Bounds
}

export function worldOf(
  { parties, bounds }: Pick<Space, 'parties' | 'bounds'>,
  rules: Rules,
  parts: Parts = PARTS,
): World {
  const obeyed = rulesOf(bounds, rules)
  return parties === 2 ? new TwoParties(bounds, obeyed, parts) : new ThreeParties(bounds, obeyed, parts)
}

function space(name: string, parties: 2 | 3, bounds: Partial<Bounds>): Space {
  return { name, parties, bounds: { ...BOUNDS, ...bounds } }
}

/** On every change: about 15 seconds of a processor. Larger spaces, and more kinds of fault at once, are in {@link LONG}. */
export const ALWAYS: readonly Space[] = [
  space('two parties, a connection moves, kill and stop, effect by effect', 2, { connection: true, cut: 0 }),
  space('two parties, each fault twice, effect by effect', 2, { crash: 2, stop: 2, cut: 2 }),
  space('three parties, two kills, effect by effect', 3, { segments: 5, crash: 2, stop: 0, cut: 0 }),
  space('three parties, a stop, steps whole', 3, { segments: 5, crash: 0, cut: 0, atomic: true }),
  space('three parties, a cut, steps whole', 3, { segments: 5, crash: 0, stop: 0, atomic: true }),
  space('three parties, two upgrades, work that ends first, no change, steps whole', 3, {
    processes: 3,
    segments: 6,
    writes: 0,
    work: true,
    crash: 0,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, a forwarded change, effect by effect', 2, { forward: true, writes: 0 }),
  space('three parties, a forwarded change and a kill, effect by effect', 3, {
    forward: true,
    writes: 0,
    segments: 5,
    stop: 0,
    cut: 0,
  }),
  space('two parties, work that ends first, each fault, effect by effect', 2, { work: true }),
  space('three parties, work that ends first, a kill, steps whole', 3, {
    segments: 5,
    work: true,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, the successor is busy behind its commit, a forwarded change, effect by effect', 2, {
    forward: true,
    writes: 0,
    busy: 1,
  }),
  space('three parties, the successor is busy behind its commit, a forwarded change, steps whole', 3, {
    forward: true,
    writes: 0,
    busy: 1,
    segments: 5,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, probations and drains last, an effect fails, each fault', 2, {
    fail: 1,
    lasting: true,
  }),
  space(
    'three parties, probations last, the daemon seems silent, an effect fails and a stop, no change, steps whole',
    3,
    {
      segments: 5,
      writes: 0,
      silent: 1,
      lasting: true,
      fail: 1,
      crash: 0,
      cut: 0,
      atomic: true,
    },
  ),
  space('two parties, a segment that has grown, effect by effect', 2, { renewals: 1 }),
  space('three parties, a segment that has grown, a kill, steps whole', 3, {
    segments: 6,
    renewals: 1,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, an effect fails, effects lag, kill and stop', 2, { fail: 1, lag: true, cut: 0 }),
  space('two parties, one leaves, joiners that have given up, effect by effect', 2, {
    fail: 1,
    leave: 1,
    absent: 1,
    cut: 0,
  }),
  space('three parties, an effect fails and a kill, no change, effects lag', 3, {
    segments: 5,
    writes: 0,
    fail: 1,
    lag: true,
    stop: 0,
    cut: 0,
  }),
  space('three parties, one leaves, the daemon seems silent, a kill, no change, steps whole', 3, {
    segments: 5,
    writes: 0,
    leave: 1,
    silent: 1,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
]

/** At night, and by `npm run explore`: some minutes, some gigabytes. */
export const LONG: readonly Space[] = [
  space('two parties, a connection moves, kill and cut, effect by effect', 2, { connection: true, stop: 0 }),
  space('two parties, chain of 3, work that ends first, a kill, steps whole', 2, {
    processes: 3,
    work: true,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, chain of 3, kill and stop, steps whole', 2, { processes: 3, cut: 0, atomic: true }),
  space('two parties, two effects fail and a kill, effects lag', 2, {
    fail: 2,
    lag: true,
    stop: 0,
    cut: 0,
  }),
  space('two parties, two effects fail and a stop, effects lag', 2, {
    fail: 2,
    lag: true,
    crash: 0,
    cut: 0,
  }),
  space('three parties, stop and cut, no change, steps whole', 3, {
    segments: 5,
    writes: 0,
    crash: 0,
    atomic: true,
  }),
  space('two parties, two effects fail and a cut, effects lag', 2, {
    fail: 2,
    lag: true,
    crash: 0,
    stop: 0,
  }),
  space('three parties, two effects fail and a cut, no change, steps whole', 3, {
    segments: 5,
    writes: 0,
    fail: 2,
    crash: 0,
    stop: 0,
    atomic: true,
  }),
  space('three parties, an effect fails and a stop, steps whole', 3, {
    segments: 5,
    fail: 1,
    crash: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, a forwarded change, chain of 3 and a kill, steps whole', 2, {
    forward: true,
    writes: 0,
    processes: 3,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('three parties, probations and drains last, an effect fails and a kill, steps whole', 3, {
    segments: 5,
    fail: 1,
    lasting: true,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('three parties, two upgrades, work that ends first, steps whole', 3, {
    processes: 3,
    segments: 6,
    work: true,
    crash: 0,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space(
    'three parties, probations last, the daemon seems silent, an effect fails and a stop, steps whole',
    3,
    {
      segments: 5,
      silent: 1,
      lasting: true,
      fail: 1,
      crash: 0,
      cut: 0,
      atomic: true,
    },
  ),
  space('three parties, an effect fails and a kill, effects lag', 3, {
    segments: 5,
    fail: 1,
    lag: true,
    stop: 0,
    cut: 0,
  }),
  space('three parties, one leaves, the daemon seems silent, a kill, steps whole', 3, {
    segments: 5,
    leave: 1,
    silent: 1,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('three parties, an effect fails and a cut, steps whole', 3, {
    segments: 5,
    fail: 1,
    crash: 0,
    stop: 0,
    atomic: true,
  }),
  space('three parties, two effects fail and a cut, steps whole', 3, {
    segments: 5,
    fail: 2,
    crash: 0,
    stop: 0,
    atomic: true,
  }),
  space('three parties, probations and drains last, two effects fail and a cut, steps whole', 3, {
    segments: 5,
    fail: 2,
    lasting: true,
    crash: 0,
    stop: 0,
    atomic: true,
  }),
  space('two parties, two effects fail, each fault, effects lag', 2, { fail: 2, lag: true }),
  space('two parties, probations and drains last, two effects fail, stop and cut, effects lag', 2, {
    fail: 2,
    lag: true,
    lasting: true,
    crash: 0,
  }),
  space('two parties, chain of 3, steps whole', 2, { processes: 3, atomic: true }),
  space('three parties, two kills and a stop, effect by effect', 3, { segments: 5, crash: 2, cut: 0 }),
  space('three parties, two upgrades and a kill, steps whole', 3, {
    processes: 3,
    segments: 5,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('three parties, work that ends first, kill and cut, steps whole', 3, {
    segments: 5,
    work: true,
    stop: 0,
    atomic: true,
  }),
  space('three parties, probations and drains last, an effect fails and a cut, steps whole', 3, {
    segments: 5,
    fail: 1,
    lasting: true,
    crash: 0,
    stop: 0,
    atomic: true,
  }),
  space('three parties, a segment that has grown, kill and stop, steps whole', 3, {
    segments: 6,
    renewals: 1,
    cut: 0,
    atomic: true,
  }),
  space('two parties, probations last, a connection moves, effect by effect', 2, {
    connection: true,
    lasting: true,
  }),
  space('two parties, chain of 3, the successors are busy, a forwarded change, a kill', 2, {
    processes: 3,
    forward: true,
    writes: 0,
    busy: 2,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('three parties, kill, stop and cut, steps whole', 3, { segments: 5, atomic: true }),
  space('two parties, a forwarded change beside another, chain of 3, kill and stop, steps whole', 2, {
    forward: true,
    processes: 3,
    cut: 0,
    atomic: true,
  }),
  space('two parties, a forwarded change beside another, chain of 3, kill and cut, steps whole', 2, {
    forward: true,
    processes: 3,
    stop: 0,
    atomic: true,
  }),
  space('three parties, a forwarded change, kill and stop, steps whole', 3, {
    forward: true,
    writes: 0,
    segments: 5,
    cut: 0,
    atomic: true,
  }),
  space('two parties, chain of 3, an effect fails and a kill, steps whole', 2, {
    processes: 3,
    fail: 1,
    stop: 0,
    cut: 0,
    atomic: true,
  }),
  space('two parties, an effect fails, one leaves, a segment has grown, effect by effect', 2, {
    fail: 1,
    leave: 1,
    absent: 1,
    renewals: 1,
  }),
  space('three parties, an effect fails, kill and stop, effect by effect', 3, {
    segments: 6,
    fail: 1,
    cut: 0,
  }),
  space('three parties, an effect fails, stop and cut, steps whole', 3, {
    segments: 5,
    fail: 1,
    crash: 0,
    atomic: true,
  }),
  space('two parties, chain of 3, effect by effect', 2, { processes: 3 }),
  space('two parties, chain of 3, work that ends first, effect by effect', 2, {
    processes: 3,
    work: true,
    stop: 0,
  }),
  space('three parties, work that ends first, kill and stop, effect by effect', 3, {
    segments: 5,
    work: true,
    cut: 0,
  }),
  space('two parties, two changes, a connection moves, effect by effect', 2, { writes: 2, connection: true }),
  space('two parties, chain of 3, two cuts, steps whole', 2, { processes: 3, cut: 2, atomic: true }),
  space('three parties, cut and kill, effect by effect', 3, { segments: 5, stop: 0 }),
  space('three parties, kill, stop and cut, 7 segments, steps whole', 3, { segments: 7, atomic: true }),
  space('three parties, two kills, stop and cut, steps whole', 3, { segments: 5, crash: 2, atomic: true }),
  space('three parties, two upgrades and a cut, steps whole', 3, {
    processes: 3,
    segments: 5,
    stop: 0,
    crash: 0,
    atomic: true,
  }),
]
