import type { LACKS } from '../../faults.js'
import { randomOf } from '../../random.js'
import type { OperatorOrder } from '../operator.js'

/** Main processes are M1, M2 …; the first process of worker 0 is 0.1, its next one 0.2. */
export type Who = 'M1' | 'M2' | '0.1' | '0.2' | '1.1' | '1.2'

/** The process that has a part when an act comes to it. */
export type Part = 'main' | 'worker 0' | 'worker 1'

/** When an act happens, counted from the first one. */
type When = { readonly ms: number } | { readonly after: Who; readonly steps: number }

export type WorkersAct =
  | ({ readonly what: 'kill' | 'stop' | 'lack'; readonly who: Who; readonly call: number } & {
      readonly ms?: number
      readonly code?: keyof typeof LACKS
      readonly calls?: number
      /** Calls count from the moment when a later main process begins to serve. */
      readonly from?: 'commit'
    })
  /** An operator's order to all workers. */
  | { readonly what: Exclude<OperatorOrder, 'upgrade daemon'>; readonly when: When }
  | { readonly what: 'signal'; readonly signal: NodeJS.Signals; readonly when: When }
  /** A second start of the main process, which takes over. */
  | { readonly what: 'start'; readonly when: When }
  | { readonly what: 'dies'; readonly part: Part; readonly when: When }
  | { readonly what: 'hangs'; readonly part: Part; readonly ms: number; readonly when: When }
  | { readonly what: 'break'; readonly which: number; readonly when: When }
  /** For `ms` the control group has no memory for one more process. */
  | { readonly what: 'full'; readonly ms: number; readonly when: When }
  /** The worker, or each, closes its second listener. */
  | { readonly what: 'unlisten'; readonly part: Part | 'workers'; readonly when: When }
  /** For `ms` the program of the workers is a bad one: it ends before it is ready, or soon after. */
  | { readonly what: 'bad'; readonly how: 'crashes' | 'ends soon'; readonly ms: number; readonly when: When }

export interface WorkersSchedule {
  readonly kind: 'workers'
  readonly hosting: 'workers'
  /** The configured number of workers. */
  readonly workers: number
  readonly replace: 'one-by-one' | 'at-once'
  readonly acts: readonly WorkersAct[]
  /** The workers have a second listener, and clients connect while a listener closes. */
  readonly queues?: true
  readonly buffer?: number
  readonly late?: { readonly share: number; readonly ms: number }
}

/** Calls and callbacks from an upgrade until all workers are replaced (measured). */
const SIZES: Readonly<Record<Who, { readonly calls: number; readonly steps: number }>> = {
  M1: { calls: 400, steps: 60 },
  M2: { calls: 2_000, steps: 250 },
  '0.1': { calls: 400, steps: 80 },
  '1.1': { calls: 400, steps: 80 },
  '0.2': { calls: 600, steps: 80 },
  '1.2': { calls: 600, steps: 80 },
}
const ALL = Object.keys(SIZES) as Who[]
const PARTS: readonly Part[] = ['main', 'worker 0', 'worker 1']
const SOON_MS = 12_000
/** The share of runs in which the main process is replaced while it starts processes of workers. */
const HANDOVERS = 0.25
/** The shares of the other runs in which the main process is stopped, or dies, when it has handed over; and in which workers close a listener. */
const COMMITS = 0.12
const QUEUES = 0.12
/** The share in which the control group of the service is full while workers are replaced and die. */
const FULL = 0.08
/** All probations have ended so long after the first act. */
const CALM_MS = 8_000
/** Calls of a main process that has handed over, until it has heard that the next one serves, and ends (measured). */
const CALLS_OF_COMMIT = 30

export function workersScheduleOf(seed: number): WorkersSchedule {
  const random = randomOf(seed * 7_919 + 3)
  const below = (n: number) => Math.floor(random() * n)
  const one = <T>(list: readonly T[]): T => list[below(list.length)]!
  const when = (): When => {
    const after = one(ALL)
    return below(2) === 0 ? { ms: below(SOON_MS) } : { after, steps: below(SIZES[after].steps) }
  }
  const first = (when: When): WorkersAct => {
    const order = one(['upgrade', 'upgrade', 'upgrade', 'restart', 'start', 'set 1', 'set 4', 'USR2', 'none'])
    if (order === 'none') return { what: 'status', when }
    if (order === 'USR2') return { what: 'signal', signal: 'SIGUSR2', when }
    return { what: order as 'upgrade' | 'start', when }
  }
  const trouble = (): WorkersAct => {
    const who = one(ALL)
    const ofCall = { who, call: 1 + below(SIZES[who].calls) } as const
    switch (below(12)) {
      case 0:
      case 1:
        return { what: 'kill', ...ofCall }
      case 2:
      case 3:
        return { what: 'stop', ...ofCall, ms: one([100, 1_000, 2_500, 6_000, 15_000, 25_000]) }
      case 4:
        return {
          what: 'lack',
          ...ofCall,
          code: one(['EMFILE', 'ENOMEM', 'ENOSPC']),
          calls: 1 + below(60),
        }
      case 5:
        return { what: 'dies', part: one(PARTS), when: when() }
      case 6:
        return {
          what: 'hangs',
          part: one(PARTS),
          ms: one([1_000, 2_500, 6_000, 15_000, 25_000]),
          when: when(),
        }
      case 7:
        return {
          what: one(['restart', 'upgrade', 'rollback', 'reload', 'status', 'set 1', 'set 2', 'set 4']),
          when: when(),
        }
      case 8:
        return { what: 'break', which: below(8), when: when() }
      case 9:
        return { what: 'bad', how: one(['crashes', 'ends soon']), ms: 100 + below(8_000), when: when() }
      case 10:
        return below(2) === 0
          ? { what: 'start', when: when() }
          : { what: 'signal', signal: one(['SIGHUP', 'SIGUSR2', 'SIGWINCH', 'SIGUSR1']), when: when() }
      default:
        return below(2) === 0
          ? { what: 'stop service', when: when() }
          : { what: 'signal', signal: one(['SIGTERM', 'SIGINT', 'SIGQUIT']), when: when() }
    }
  }
  /** The main process is replaced while it starts processes of workers. */
  const handovers = (): WorkersAct[] => {
    const starts: WorkersAct[] = [
      { what: one(['restart', 'restart', 'set 4']), when: { ms: 0 } },
      { what: 'dies', part: one(['worker 0', 'worker 1']), when: { ms: 0 } },
    ]
    const after = one(['0.2', '1.2'] as const)
    const next: WorkersAct = {
      what: one(['start', 'upgrade']),
      when: { after, steps: below(SIZES[after].steps / 2) },
    }
    return [one(starts), next, ...(below(4) === 0 ? [trouble()] : [])]
  }
  if (randomOf(seed * 7_919 + 5)() < HANDOVERS)
    return {
      kind: 'workers',
      hosting: 'workers',
      workers: 1 + below(3),
      replace: one(['one-by-one', 'at-once']),
      acts: handovers(),
    }
  /** The main process is stopped, or dies, after it has handed over, and before it hears of the next one. */
  const atCommit = (): WorkersAct[] => {
    const ofCall = { who: 'M1', call: 1 + below(CALLS_OF_COMMIT), from: 'commit' } as const
    return [
      { what: one(['upgrade', 'upgrade', 'start']), when: { ms: 0 } },
      below(4) === 0
        ? { what: 'kill', ...ofCall }
        : { what: 'stop', ...ofCall, ms: one([100, 1_000, 2_500, 6_000, 15_000, 25_000]) },
      ...(below(4) === 0 ? [trouble()] : []),
    ]
  }
  const queues = (): WorkersAct[] => {
    const order = one(['upgrade', 'restart', 'set 1', 'set 4', 'status'] as const)
    // A standby would have the listener too.
    const when = { ms: CALM_MS + below(5_000) }
    const closing: WorkersAct = { what: 'unlisten', part: one(['worker 0', 'worker 1', 'workers']), when }
    return [{ what: order, when: { ms: 0 } }, closing]
  }
  const kind = randomOf(seed * 7_919 + 7)()
  if (kind < COMMITS + QUEUES) {
    const isCommit = kind < COMMITS
    return {
      kind: 'workers',
      hosting: 'workers',
      workers: 1 + below(3),
      replace: one(['one-by-one', 'at-once']),
      acts: isCommit ? atCommit() : queues(),
      ...(!isCommit && { queues: true }),
    }
  }
  if (kind > 1 - FULL) {
    const order = one(['upgrade', 'upgrade', 'restart', 'start', 'set 4'] as const)
    const dies: WorkersAct = {
      what: 'dies',
      part: one(['worker 0', 'worker 1']),
      when: { ms: 1_000 + below(SOON_MS) },
    }
    return {
      kind: 'workers',
      hosting: 'workers',
      workers: 1 + below(3),
      replace: one(['one-by-one', 'at-once']),
      acts: [
        { what: 'full', ms: 5_000 + below(15_000), when: { ms: below(2_000) } },
        { what: order, when: { ms: below(4_000) } },
        ...(below(3) === 0 ? [] : [dies]),
        ...(below(4) === 0 ? [trouble()] : []),
      ],
    }
  }
  const troubles = Array.from({ length: one([0, 1, 1, 1, 2, 2, 3]) }, trouble)
  const world = {
    buffer: one([512, 4_096, 65_536]),
    late: { share: 0.1 + random() * 0.4, ms: below(1_500) },
  }
  return {
    kind: 'workers',
    hosting: 'workers',
    workers: 1 + below(3),
    replace: one(['one-by-one', 'at-once']),
    acts: [first({ ms: 0 }), ...troubles],
    ...(below(6) === 0 && world),
  }
}
