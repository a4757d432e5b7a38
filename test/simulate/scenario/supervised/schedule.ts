import type { Restart } from '../../../../src/versions/version-machine.js'
import type { LACKS } from '../../faults.js'
import { randomOf } from '../../random.js'
import type { Health, Manner } from './programs.js'
import type { SupervisorsOptions } from './supervisors.js'

/** Supervisors are R1, R2 …; the processes of the program v1, v2 …. */
export type Who = 'R1' | 'v1' | 'v2' | 'v3'

/** The process that has a part when an act comes to it. */
export type Part = 'run' | 'oldest' | 'newest' | 'helper'

/** When an act happens, counted from the first one. */
type When = { readonly ms: number } | { readonly after: Who; readonly steps: number }

export type SupervisedAct =
  | { readonly what: 'kill'; readonly who: Who; readonly call: number }
  | { readonly what: 'stop'; readonly who: Who; readonly call: number; readonly ms: number }
  | {
      readonly what: 'lack'
      readonly who: 'R1'
      readonly call: number
      readonly code: keyof typeof LACKS
      readonly calls: number
    }
  | {
      readonly what:
        | 'upgrade'
        | 'cancelled upgrade'
        | 'rollback'
        | 'reload'
        | 'status'
        | 'stop service'
        | 'stop soon'
      readonly when: When
    }
  /** Another `fd-broker run` is started at the control path. */
  | { readonly what: 'start'; readonly when: When }
  /** The file with the settings has mistakes for `ms`. */
  | { readonly what: 'bad file'; readonly ms: number; readonly when: When }
  | { readonly what: 'signal'; readonly signal: NodeJS.Signals; readonly when: When }
  /** A process ends: by itself with a code, or by SIGKILL. */
  | { readonly what: 'dies'; readonly part: Part; readonly code: number | null; readonly when: When }
  | { readonly what: 'hangs'; readonly part: Part; readonly ms: number; readonly when: When }
  /** For `ms` the program is another one. */
  | { readonly what: 'bad'; readonly manner: Manner; readonly ms: number; readonly when: When }
  /** The newest process answers its health checks so for `ms`. */
  | { readonly what: 'health'; readonly health: Health; readonly ms: number; readonly when: When }
  /** For `ms` the control group has no memory for one more process. */
  | { readonly what: 'full'; readonly ms: number; readonly when: When }
  /** The program's file is missing for `ms`. */
  | { readonly what: 'missing'; readonly ms: number; readonly when: When }

export interface SupervisedSchedule extends SupervisorsOptions {
  readonly kind: 'run'
  readonly hosting: 'run'
  readonly acts: readonly SupervisedAct[]
  readonly buffer?: number
  readonly late?: { readonly share: number; readonly ms: number }
}

/** Calls and callbacks from an upgrade until the old version has ended (measured). */
const SIZES: Readonly<Record<Who, { readonly calls: number; readonly steps: number }>> = {
  R1: { calls: 700, steps: 120 },
  v1: { calls: 150, steps: 60 },
  v2: { calls: 200, steps: 80 },
  v3: { calls: 200, steps: 80 },
}
const ALL = Object.keys(SIZES) as Who[]
const PARTS: readonly Part[] = ['run', 'oldest', 'newest', 'newest', 'helper']
const MANNERS: readonly Manner[] = [
  'crashes',
  'ends early',
  'ends soon',
  'never ready',
  'late',
  'ignores TERM',
  'drops',
  'forks',
]
const SOON_MS = 9_000
/** The share of runs in which the next version is sick, and ignores that it is told to end. */
const SICK = 0.08
/** The share in which the control group is full while the program is upgraded, rolled back, and dies. */
const FULL = 0.06
const RESTARTS: readonly Restart[] = ['never', 'on-failure', 'always', 'always']

export function supervisedScheduleOf(seed: number): SupervisedSchedule {
  const random = randomOf(seed * 6_287 + 5)
  const below = (n: number) => Math.floor(random() * n)
  const one = <T>(list: readonly T[]): T => list[below(list.length)]!
  const when = (): When => {
    const after = one(ALL)
    return below(2) === 0 ? { ms: below(SOON_MS) } : { after, steps: below(SIZES[after].steps) }
  }
  const first = (): SupervisedAct => {
    const what = one(['upgrade', 'upgrade', 'upgrade', 'upgrade', 'HUP', 'status'])
    if (what === 'HUP') return { what: 'signal', signal: 'SIGHUP', when: { ms: 0 } }
    return { what: what as 'upgrade', when: { ms: 0 } }
  }
  const trouble = (): SupervisedAct => {
    const who = one(ALL)
    const ofCall = { who, call: 1 + below(SIZES[who].calls) } as const
    const hangMs = () => one([100, 1_000, 2_500, 6_000, 12_000])
    switch (below(14)) {
      case 0:
        return { what: 'kill', ...ofCall }
      case 1:
        return { what: 'stop', ...ofCall, ms: hangMs() }
      case 2:
        return {
          what: 'lack',
          who: 'R1',
          call: 1 + below(SIZES.R1.calls),
          code: one(['EAGAIN', 'EMFILE', 'ENOMEM', 'ENOSPC']),
          calls: 1 + below(60),
        }
      case 3:
      case 4:
        return { what: 'dies', part: one(PARTS), code: one([null, null, 0, 1]), when: when() }
      case 5:
        return { what: 'hangs', part: one(PARTS), ms: hangMs(), when: when() }
      case 6:
      case 7:
        return {
          what: 'bad',
          manner: one(MANNERS),
          ms: 500 + below(8_000),
          when: below(2) === 0 ? { ms: 0 } : when(),
        }
      case 8:
        return {
          what: 'health',
          health: one(['bad', 'late', 'half', 'never']),
          ms: 100 + below(8_000),
          when: when(),
        }
      case 9:
        return { what: 'missing', ms: 100 + below(5_000), when: when() }
      case 10:
      case 11:
        return { what: one(['upgrade', 'upgrade', 'rollback', 'rollback', 'reload', 'status']), when: when() }
      case 12:
        return {
          what: 'signal',
          signal: one(['SIGHUP', 'SIGUSR2', 'SIGWINCH', 'SIGTERM', 'SIGTERM', 'SIGINT', 'SIGINT', 'SIGQUIT']),
          when: when(),
        }
      default:
        return { what: 'stop service', when: when() }
    }
  }
  if (randomOf(seed * 6_287 + 7)() < SICK)
    return {
      kind: 'run',
      hosting: 'run',
      restart: one(RESTARTS),
      ready: 'http',
      acts: [
        { what: 'bad', manner: 'stays sick', ms: 500 + below(8_000), when: { ms: 0 } },
        { what: 'upgrade', when: { ms: 1 } },
        ...(below(3) === 0 ? [trouble()] : []),
      ],
    }
  if (randomOf(seed * 6_287 + 13)() < FULL) {
    const dies = { what: 'dies', part: 'newest', code: one([null, 1]), when: when() } as const
    const order = (): SupervisedAct => ({ what: one(['upgrade', 'upgrade', 'rollback']), when: when() })
    return {
      kind: 'run',
      hosting: 'run',
      restart: one(RESTARTS),
      ready: one(['http', 'http', 'fd', 'tcp', 'delay']),
      acts: [
        first(),
        { what: 'full', ms: 2_000 + below(15_000), when: when() },
        ...Array.from({ length: 1 + below(2) }, order),
        ...(below(2) === 0 ? [dies] : []),
        ...(below(4) === 0 ? [trouble()] : []),
      ],
    }
  }
  const troubles = Array.from({ length: one([0, 1, 1, 1, 2, 2, 3]) }, trouble)
  const orders = ordersOf(seed)
  const world = {
    buffer: one([512, 4_096, 65_536]),
    late: { share: 0.1 + random() * 0.4, ms: below(800) },
  }
  return {
    kind: 'run',
    hosting: 'run',
    restart: one(RESTARTS),
    ready: one(['http', 'http', 'fd', 'tcp', 'delay']),
    acts: [first(), ...troubles, ...orders],
    ...(below(8) === 0 && world),
  }
}

const ORDERS = [
  ...(['upgrade', 'upgrade', 'upgrade', 'cancelled upgrade', 'cancelled upgrade'] as const),
  ...([
    'rollback',
    'rollback',
    'rollback',
    'reload',
    'status',
    'start',
    'start',
    'bad file',
    'bad file',
  ] as const),
  ...(['stop service', 'stop soon', 'stop soon'] as const),
] as const

/** In half of the runs, more orders beside the troubles: also two at once, and one twice. */
function ordersOf(seed: number): SupervisedAct[] {
  const random = randomOf(seed * 6_287 + 11)
  const below = (n: number) => Math.floor(random() * n)
  const one = <T>(list: readonly T[]): T => list[below(list.length)]!
  if (below(2) === 0) return []
  const order = (when: When): SupervisedAct => {
    const what = one(ORDERS)
    return what === 'bad file' ? { what, ms: 500 + below(6_000), when } : { what, when }
  }
  return Array.from({ length: 1 + below(4) }, () => {
    const after = one(ALL)
    const when = below(2) === 0 ? { ms: below(SOON_MS) } : { after, steps: below(SIZES[after].steps) }
    const given = order(when)
    return [[given], [given], [given, given], [given, order(when)]][below(4)]!
  }).flat()
}
