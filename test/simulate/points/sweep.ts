import type { Code } from '../globals.js'
import { afterMicrotasks, takeUnhandled } from '../run-seed.js'
import { Livelock } from '../world.js'
import { CAN_BE_LATE, ERRNOS, ERRNOS_OF_FDS, IN_PARTS, ONCE } from './errnos.js'
import { type Point, type Trouble, troubleText } from './point.js'
import { REPEATED, SCENARIOS, SCHEDULED } from './scenarios.js'
import { ScheduledRun } from './scheduled.js'
import { type PlayableRun, type Played, ServiceRun } from './service.js'
import { Sites } from './sites.js'
import { type Call, TIMER } from './tap.js'

/** A point, and where in `src` its call is made; null: the program of the scenario makes it. */
export interface Placed {
  readonly point: Point
  readonly name: string
  readonly place: string | null
}

/** A scenario without a trouble: what it has at the end, and its points. */
export interface Clean {
  readonly scenario: string
  readonly played: Played
  readonly calls: number
  readonly points: readonly Placed[]
}

/** Runs a scenario without a trouble, and lists each trouble at each of its calls. `twice`: its act is repeated, and each trouble with it. */
export async function cleanRun(code: Code, scenario: string, twice = false): Promise<Clean> {
  const sites = new Sites(code.text)
  const calls: (Call & { place: string | null })[] = []
  if (twice) {
    const once = await cleanRun(code, scenario)
    const repeated = await play(runOf(code, scenario, null, false, twice), null)
    refuseWrong(repeated)
    return {
      ...once,
      played: repeated,
      points: once.points.map(each => ({ ...each, point: { ...each.point, twice } })),
    }
  }
  const run = runOf(code, scenario, null, false)
  // The orders of a schedule have no answer if their operator dies.
  const others = scenario in SCHEDULED ? /^(?:c\d|op$)/ : /^c\d/
  run.tap.onCall = call => {
    if (!others.test(call.process)) calls.push(Object.assign(call, { place: sites.here() }))
  }
  const played = await play(run, null)
  refuseWrong(played)
  const points = calls.flatMap((call, at) => {
    const { process, n, name, step, place } = call
    const next = calls.slice(at + 1).find(each => each.process === process)
    const isLast = next?.step !== step
    return [...troublesOf(call, isLast)].map(trouble => ({
      point: { scenario, process, n, trouble },
      name,
      place,
    }))
  })
  return { scenario, played, calls: calls.length, points }
}

function refuseWrong({ wrong }: Played): void {
  if (wrong.length > 0) throw new Error(`without a trouble: ${wrong.join('; ')}`)
}

/** Each trouble that can happen at a call. A callback is atomic for others: what happens after its last call stands for the other ones. */
function* troublesOf(
  { name, hasFds, isOfItself, place }: Call & { place: string | null },
  isLast: boolean,
): Generator<Trouble> {
  if (name !== TIMER) yield { what: 'dies before' }
  if (isLast) {
    yield { what: 'dies after' }
    yield { what: 'stops after' }
  }
  if (place === null) return
  const codes = isOfItself
    ? ['EMFILE']
    : [...(ERRNOS[name] ?? []), ...(name === 'sendMessage' && hasFds ? ERRNOS_OF_FDS : [])]
  for (const code of codes) {
    yield { what: 'fails', code, always: false }
    if (!ONCE.has(code)) yield { what: 'fails', code, always: true }
  }
  if (IN_PARTS.has(name)) yield { what: 'half' }
  if (CAN_BE_LATE.has(name)) yield { what: 'late' }
  if (name === 'receiveMessage' && hasFds) yield { what: 'truncated' }
}

/** In the gate the second error stands for the first one at a call that can give both. */
const AS_OTHER: Readonly<Record<string, string>> = { ENFILE: 'EMFILE', ENOBUFS: 'ENOMEM', EIO: 'EACCES' }

/** The share of the gate: at each place in `src` each call fails once with each error. `seen`: what other scenarios have played. */
export function forGate(points: readonly Placed[], seen: Set<string>): Placed[] {
  return points.filter(({ point: { trouble }, name, place }) => {
    if (trouble.what !== 'fails' || trouble.always) return false
    const other = AS_OTHER[trouble.code]
    if (other !== undefined && ERRNOS[name]?.includes(other)) return false
    const key = `${place} ${name} ${trouble.code}`
    if (seen.has(key)) return false
    seen.add(key)
    return true
  })
}

/** Each trouble once at each place in `src`, for each process. */
export function forSites(points: readonly Placed[]): Placed[] {
  const seen = new Set<string>()
  return points.filter(({ point: { process, trouble }, name, place }) => {
    const key = `${process} ${place} ${name} ${troubleText(trouble)}`
    if (seen.has(key)) return false
    seen.add(key)
    return true
  })
}

function runOf(
  code: Code,
  scenario: string,
  point: Point | null,
  trace: boolean,
  twice = false,
): PlayableRun {
  if (twice && SCENARIOS[scenario]?.repeats !== true)
    throw new Error(`the act of "${scenario}" cannot be repeated: ${REPEATED.join(', ')}`)
  const scheduled = SCHEDULED[scenario]
  if (scheduled !== undefined) return new ScheduledRun(code, scheduled, point, trace)
  return new ServiceRun(code, SCENARIOS[scenario]!, point, trace, twice)
}

async function play(run: PlayableRun, usual: Played['censuses'] | null): Promise<Played> {
  const played = await afterMicrotasks(() => {
    try {
      return run.run(usual)
    } catch (error) {
      if (!(error instanceof Livelock)) throw error
      return { world: run.world, wrong: [error.message], at: run.tap.played, censuses: [] }
    }
  })
  const rejections = await afterMicrotasks(takeUnhandled)
  return {
    ...played,
    wrong: [...new Set([...played.wrong, ...rejections.map(each => `unhandled rejection: ${each}`)])],
  }
}

/** Plays one point. */
export function playPoint(
  code: Code,
  { played: usual }: Clean,
  point: Point,
  trace = false,
): Promise<Played> {
  return play(runOf(code, point.scenario, point, trace, point.twice), usual.censuses)
}
