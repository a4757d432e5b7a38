import type { LACKS } from '../faults.js'
import type { Trouble } from '../kernel/disk.js'
import { randomOf } from '../random.js'
import type { SupervisedAct } from './supervised/schedule.js'
import type { WorkersAct } from './workers/schedule.js'

/** `S`: the daemon, `T`: the next daemon. */
export type Who = 'A' | 'B' | 'S' | 'T'

/** When an act happens, counted from the start of the next version, B. */
type When =
  | { readonly ms: number }
  /** After so many callbacks of this process, also counted from the start of the next daemon. */
  | { readonly after: Who; readonly steps: number; readonly from?: 'upgrade' }

/** Calls count from the start of the next daemon, or from the commit, when B begins to serve. */
export type Since = 'upgrade' | 'commit'

/** An event for the processes of a run. A serves when it begins, B is its next version, C joins later. */
export type Act =
  | ({ readonly what: 'kill' | 'stop' | 'lack'; readonly who: Who; readonly call: number } & {
      readonly ms?: number
      readonly code?: keyof typeof LACKS
      readonly calls?: number
      readonly from?: Since
    })
  /** The next daemon starts; `again`: one more. */
  | { readonly what: 'upgrade'; readonly when: When; readonly again?: true }
  | { readonly what: 'close daemon'; readonly who: 'S' | 'T'; readonly when: When }
  | { readonly what: 'dies'; readonly who: Who; readonly when: When }
  | { readonly what: 'close'; readonly who: 'A' | 'B'; readonly when: When; readonly timeout?: number }
  /** The version closes its second listener, or moves it to another address. */
  | { readonly what: 'unlisten' | 'relisten'; readonly who: 'B'; readonly when: When }
  | { readonly what: 'crasher'; readonly when: When }
  | { readonly what: 'rollback' | 'stop service' | 'status'; readonly when: When }
  /** An operator orders one more upgrade of the service. */
  | { readonly what: 'next'; readonly when: When }
  /** An operator upgrades the service with `--kill-stuck`. */
  | { readonly what: 'kill stuck'; readonly when: When }
  /** For `ms` the control group has no memory for one more process. */
  | { readonly what: 'full'; readonly when: When; readonly ms: number }
  | { readonly what: 'break'; readonly when: When; readonly which: number }
  /** All processes of the machine end at once, and a version starts again; also the power is cut, or the state file is damaged meanwhile. */
  | { readonly what: 'end all' | 'cut' | 'damage'; readonly when: When }
  /** The disk does badly for `ms`: see Trouble in kernel/disk.ts. */
  | {
      readonly what: 'disk'
      readonly when: When
      readonly how: Trouble['how']
      readonly ms: number
      readonly much: number
    }

export interface Schedule {
  readonly kind: Kind
  readonly acts: readonly Act[]
  readonly hosting: 'embedded' | 'daemon'
  /** An operator orders the upgrades: the present version, or daemon, starts the next one. */
  readonly ordered: boolean
  /** The service has a state file, and each second change is durable. */
  readonly stateFile: boolean
  /** The number of connections that move in a second, and of further clients that have connections. */
  readonly moves?: { readonly perSecond: number; readonly clients: number }
  /** Once-only work goes on for so long when it is told to end, and each later version loads for so long. */
  readonly times?: { readonly workEndsMs: number; readonly loadsMs: number }
  /** The number of clients that call when B begins to serve. */
  readonly callers?: number
  /** A listener of B cannot be served at the commit. */
  readonly unservable?: true
  /** The versions have a second listener, and clients connect while a listener closes. */
  readonly queues?: true
  /** Only A has the second listener: each later version leaves it out, and clients connect there until the probation has ended. */
  readonly leavesOut?: true
  /** Bytes that a socket holds; the share of timers that are late. */
  readonly buffer?: number
  readonly late?: { readonly share: number; readonly ms: number }
}

/** Calls of a process from its start, or of A from the start of B, until the end of a handoff (measured). */
const CALLS = 460
/** Callbacks of A from the start of B until B serves. */
const STEPS = 70
export const PROBATION_MS = 10_000

/** One kind of trouble each, and any two together. */
export const KINDS = [
  'kill',
  'stop',
  'close',
  'crasher',
  'operator',
  'break',
  'lack',
  'alone',
  'slow',
  'two',
  'cut',
  'disk',
  'damage',
  'upgrade',
  'undone',
  'moves',
  'orders',
  'queue',
  'full',
  'hung',
] as const
export type Kind = (typeof KINDS)[number]
type Simple = Exclude<Kind, 'two' | 'slow' | 'undone' | 'moves' | 'orders' | 'queue' | Drawn>
/** Calls and callbacks of each process from the start of the next daemon until the members have returned to it (measured). */
const OF_UPGRADE = {
  S: { calls: 160, steps: 12 },
  T: { calls: 400, steps: 40 },
  A: { calls: 200, steps: 30 },
  B: { calls: 200, steps: 30 },
} as const
/** Calls of each process from the commit until B serves (measured). */
const OF_COMMIT = { S: 60, T: 0, A: 60, B: 120 } as const
/** Kinds of trouble that are a state of the service, with an act. */
const OF_SERVICE: readonly Kind[] = ['two', 'slow', 'damage', 'undone', 'moves', 'orders', 'queue']
/** Kinds that a draw of their own gives to a share of the seeds: the other seeds keep the runs that they had without these. */
const DRAWN = ['full', 'hung'] as const satisfies readonly Kind[]
type Drawn = (typeof DRAWN)[number]
const DRAWN_SHARE = 0.08
/** Kinds of trouble for services with a state file only. */
const OF_FILES: readonly Kind[] = ['cut', 'disk', 'damage']
/** One run of so many has a state file although its trouble is another one. */
const FILES_EVERY = 4

/** B serves so long after its start. */
const CALM_MS = 1_000

/** Whether a run has a daemon unless that is given. Commits fail in more ways with one. */
function hasDaemon(seed: number, wanted: Kind | undefined): boolean {
  return wanted === 'upgrade' || (wanted === 'undone' ? seed % 3 !== 1 : seed % 3 === 0)
}

export function scheduleOf(
  seed: number,
  wanted?: Kind,
  hosting: Schedule['hosting'] = hasDaemon(seed, wanted) ? 'daemon' : 'embedded',
  withFile = seed % FILES_EVERY === 0,
): Schedule {
  const random = randomOf(seed * 7919 + 1)
  const below = (n: number) => Math.floor(random() * n)
  const isUsual = (each: Kind) => !DRAWN.includes(each as Drawn)
  const kinds = KINDS.filter(each => isUsual(each) && (each !== 'upgrade' || hosting === 'daemon'))
  const usual = wanted ?? kinds[below(kinds.length)]!
  const drawn = randomOf(seed * 7919 + 9)
  const kind =
    wanted === undefined && drawn() < DRAWN_SHARE ? DRAWN[Math.floor(drawn() * DRAWN.length)]! : usual
  const version = () => (below(2) === 0 ? 'A' : 'B') as 'A' | 'B'
  const who = (): Who => (hosting === 'daemon' && below(2) === 0 ? 'S' : version())
  const soon = (): When =>
    below(3) === 0 ? { ms: below(PROBATION_MS * 1.3) } : { after: version(), steps: below(STEPS) }
  const inUpgrade = () => (['S', 'T', 'T', 'A', 'B'] as const)[below(5)]!
  /** Soon after the start of the next daemon. */
  const meanwhile = (): When => {
    const after = inUpgrade()
    return { after, steps: below(OF_UPGRADE[after].steps), from: 'upgrade' }
  }
  const duringUpgrade = (): Act[] => {
    const who = inUpgrade()
    const ofCall = { who, call: 1 + below(OF_UPGRADE[who].calls), from: 'upgrade' } as const
    switch (below(9)) {
      case 0:
        return [{ what: 'upgrade', again: true, when: meanwhile() }]
      case 1:
        return [{ what: 'close daemon', who: below(2) === 0 ? 'S' : 'T', when: meanwhile() }]
      case 2:
        return [{ what: (['rollback', 'stop service', 'status'] as const)[below(3)]!, when: meanwhile() }]
      case 3:
        return [{ what: 'close', who: version(), when: meanwhile() }]
      case 4:
        return [{ what: 'stop', ...ofCall, ms: [100, 2_500, 6_000, 15_000][below(4)]! }]
      case 5: {
        const code = (['EMFILE', 'ENOMEM', 'ENOSPC'] as const)[below(3)]!
        return [{ what: 'lack', ...ofCall, code, calls: 1 + below(60) }]
      }
      // A member is stopped, and never comes back to the next daemon.
      case 6: {
        const member = version()
        const ms = 6_000 + below(9_000)
        return [
          { what: 'stop', who: member, call: 1 + below(60), from: 'upgrade', ms },
          { what: 'dies', who: member, when: { after: 'T', steps: 10 + below(200), from: 'upgrade' } },
        ]
      }
      default:
        return [{ what: 'kill', ...ofCall }]
    }
  }
  /** Lets the commit fail after B has accepted clients. */
  const atCommit = (): Act => {
    const who = hosting === 'daemon' && below(2) === 0 ? 'S' : below(3) === 0 ? 'A' : 'B'
    const ofCall = { who, call: 1 + below(OF_COMMIT[who]), from: 'commit' } as const
    switch (below(4)) {
      case 0:
        return { what: 'lack', ...ofCall, code: below(2) === 0 ? 'EMFILE' : 'ENOMEM', calls: 1 + below(60) }
      case 1:
        return { what: 'stop', ...ofCall, ms: [100, 2_500, 6_000, 15_000][below(4)]! }
      default:
        return { what: 'kill', ...ofCall, who: hosting === 'daemon' ? 'S' : ofCall.who }
    }
  }
  /** While connections move. */
  const amidMoves = (ms: number): Act => {
    const when = { ms: 100 + below(ms) }
    switch (below(5)) {
      case 0:
        return { what: 'close', who: version(), when, ...(below(2) === 0 && { timeout: below(3) * 1_000 }) }
      case 1:
        return { what: 'rollback', when }
      case 2:
        return { what: 'dies', who: who(), when }
      default:
        return { what: 'stop service', when }
    }
  }
  /** An order while another one is carried out: also while once-only work ends. */
  const orders = (workEndsMs: number): Act[] => {
    const order = (ms: number): Act => {
      const when = { ms }
      const what = (['next', 'next', 'next', 'rollback', 'rollback', 'close', 'stop service'] as const)[
        below(7)
      ]!
      return what === 'close' ? { what, who: version(), when } : { what, when }
    }
    const ms = below(PROBATION_MS * 1.3)
    return [
      order(ms),
      order(ms + below(workEndsMs + 300)),
      ...(below(3) === 0 ? [order(below(ms + 2_000))] : []),
    ]
  }
  const one = (kind: Simple): Act[] => {
    switch (kind) {
      case 'kill':
        return [{ what: 'kill', who: who(), call: 1 + below(CALLS) }]
      case 'stop':
        return [
          {
            what: 'stop',
            who: who(),
            call: 1 + below(CALLS),
            ms: [100, 1_000, 2_500, 6_000, 15_000][below(5)]!,
          },
        ]
      // One version is stopped, and the other one dies meanwhile.
      case 'alone': {
        const [stopped, dies] = below(2) === 0 ? (['A', 'B'] as const) : (['B', 'A'] as const)
        const ms = 6_000 + below(9_000)
        return [
          { what: 'stop', who: stopped, call: 1 + below(CALLS), ms },
          { what: 'dies', who: dies, when: { ms: below(ms) } },
        ]
      }
      case 'close':
        return [
          {
            what: 'close',
            who: version(),
            when: soon(),
            ...(below(2) === 0 && { timeout: below(3) * 1_000 }),
          },
        ]
      case 'crasher': {
        const ms = 300 + below(4_000)
        return [
          { what: 'crasher', when: { ms } },
          { what: 'dies', who: 'B', when: { ms: ms + below(4_000) } },
        ]
      }
      case 'operator': {
        const what = (['rollback', 'stop service', 'status'] as const)[below(3)]!
        return [{ what, when: soon() }]
      }
      case 'break':
        return [{ what: 'break', when: { after: version(), steps: below(STEPS) }, which: below(4) }]
      case 'cut':
        return [{ what: below(3) === 0 ? 'end all' : 'cut', when: soon() }]
      case 'damage':
        return [{ what: 'damage', when: soon() }]
      case 'disk': {
        const how = (['EIO', 'unsynced', 'full', 'slow', 'stuck'] as const)[below(5)]!
        const share = 0.1 + random() * 0.9
        const much = { EIO: share, unsynced: share, full: below(100_000), slow: 10 + below(2_000), stuck: 0 }[
          how
        ]
        return [{ what: 'disk', how, much, ms: 200 + below(10_000), when: soon() }]
      }
      case 'upgrade':
        return [
          { what: 'upgrade', when: soon() },
          ...(below(6) === 0 ? [] : duringUpgrade()),
          ...(below(3) === 0 ? duringUpgrade() : []),
        ]
      case 'lack': {
        const code = (['EMFILE', 'ENOMEM', 'ENOSPC'] as const)[below(3)]!
        return [{ what: 'lack', who: who(), call: 1 + below(CALLS), code, calls: 1 + below(60) }]
      }
    }
  }
  const stateFile = withFile || OF_FILES.includes(kind)
  // Only one trouble at a time with damage: it is mended before the next start.
  const simple = KINDS.filter(
    (each): each is Simple =>
      isUsual(each) &&
      !OF_SERVICE.includes(each) &&
      (stateFile || !OF_FILES.includes(each)) &&
      (hosting === 'daemon' || each !== 'upgrade'),
  )
  const any = () => one(simple[below(simple.length)]!)
  const world = {
    buffer: [512, 4_096, 65_536][below(3)]!,
    late: { share: 0.1 + random() * 0.4, ms: below(1_500) },
  }
  const service = { kind, hosting, stateFile, ordered: below(2) === 0 }
  if (kind === 'undone') {
    const unservable = below(3) === 0
    // With a daemon the version whose commit fails also loses the daemon that decides.
    const isEnough = unservable && hosting === 'embedded' && below(3) > 0
    const acts = [...(isEnough ? [] : [atCommit()]), ...(below(4) === 0 ? any() : [])]
    return { ...service, acts, callers: 1 + below(4), ...(unservable && { unservable }) }
  }
  if (kind === 'moves') {
    const moves = { perSecond: 1 + below(8), clients: 4 + below(8) }
    const acts = [amidMoves((1_000 * moves.clients) / moves.perSecond), ...(below(4) === 0 ? any() : [])]
    return { ...service, acts, moves }
  }
  if (kind === 'orders') {
    const times = { workEndsMs: below(2_000), loadsMs: below(2_000) }
    const acts = [...orders(times.workEndsMs), ...(below(4) === 0 ? any() : [])]
    return { ...service, acts, times }
  }
  if (kind === 'queue') {
    const ending = (): Act => {
      const close = { what: 'close', who: version(), when: soon() } as const
      return below(2) === 0 ? close : { ...close, timeout: below(3) * 1_000 }
    }
    const unlisten = (when: When): Act => ({
      what: (['unlisten', 'relisten'] as const)[below(2)]!,
      who: 'B',
      when,
    })
    const late = () => ({ ms: CALM_MS + below(PROBATION_MS + 5_000) })
    const leftOut: Act[][] = [
      [],
      [],
      [{ what: 'rollback', when: soon() }],
      [ending()],
      [{ what: 'stop service', when: soon() } as const],
    ]
    const which = below(hosting === 'daemon' ? 5 : 4)
    const acts = [
      [{ what: 'stop service', when: soon() } as const],
      [ending()],
      [unlisten(late())],
      // The next version leaves the listener out.
      leftOut[below(leftOut.length)]!,
      // The daemon itself is replaced meanwhile.
      [{ what: 'upgrade', when: late() } as const, unlisten(meanwhile())],
    ][which] as Act[]
    return { ...service, acts, queues: true, ...(which === 3 && { leavesOut: true }) }
  }
  const full = (ms: number): Act => ({ what: 'full', when: { ms }, ms: 1_000 + below(25_000) })
  if (kind === 'full') {
    const ms = below(PROBATION_MS * 1.3)
    const orders = Array.from({ length: 1 + below(3) }, (): Act => {
      const what = (['next', 'next', 'next', 'rollback', 'kill stuck'] as const)[below(5)]!
      return { what, when: { ms: ms + below(15_000) } }
    })
    return { ...service, acts: [full(ms), ...orders, ...(below(2) === 0 ? any() : [])] }
  }
  if (kind === 'hung') {
    const acts: Act[] = [
      { what: 'stop', who: version(), call: 1 + below(CALLS), ms: 20_000 + below(10_000) },
      { what: 'kill stuck', when: { ms: below(PROBATION_MS * 1.3) } },
      ...(below(2) === 0 ? [full(below(PROBATION_MS))] : []),
    ]
    return { ...service, acts: [...acts, ...(below(4) === 0 ? any() : [])] }
  }
  if (kind === 'slow') return { ...service, acts: below(2) === 0 ? [] : any(), ...world }
  if (kind === 'two') return { ...service, acts: [...any(), ...any()], ...(below(3) === 0 && world) }
  return { ...service, acts: one(kind) }
}

function since(from: object): string {
  if (!('from' in from)) return ''
  return from.from === 'commit'
    ? ' since the next one begins to serve'
    : ' since the start of the next daemon'
}

export function actText(act: Act | WorkersAct | SupervisedAct): string {
  const when = 'when' in act ? act.when : null
  const at =
    when === null
      ? `at its call ${(act as { call: number }).call}${since(act)}`
      : 'ms' in when
        ? `after ${when.ms.toFixed(0)} ms`
        : `after ${when.steps} callbacks of ${when.after}${since(when)}`
  const more = Object.entries(act).filter(([key]) => !['what', 'who', 'call', 'when', 'from'].includes(key))
  const { who = '' } = act as { who?: string }
  return [act.what, who, at, ...more.map(([key, value]) => `${key} ${value}`)].filter(Boolean).join(' ')
}
