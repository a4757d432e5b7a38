import type { Code } from '../globals.js'
import { pinnedOf } from './pinned.js'
import { type Point, parsePoint, pointText } from './point.js'
import { ALL_SCENARIOS } from './scenarios.js'
import { cleanRun, forGate, forSites, type Placed, playPoint } from './sweep.js'

/** Plays one point, and prints its story. Returns whether all promises were kept. */
export async function tellPoint(code: Code, text: string): Promise<boolean> {
  const point = parsePoint(text)
  const clean = await cleanRun(code, point.scenario, point.twice)
  const { world, at, wrong } = await playPoint(code, clean, point, true)
  const place = clean.points.find(each => pointText(each.point) === text)?.place ?? 'the program'
  process.stdout.write(`${world.story.join('\n')}\n${text}: ${at ?? 'never'}() of ${place}\n`)
  for (const each of wrong) process.stdout.write(`WRONG: ${each}\n`)
  return wrong.length === 0
}

/** The points that one process plays. */
export interface Share {
  readonly scenarios: readonly string[]
  /** At each place of `src` each call once with each error: in all scenarios together, or in each of them; each trouble, for each process; or all points. */
  readonly which: 'gate' | 'places' | 'sites' | 'all'
  readonly part: number
  readonly parts: number
  /** The act of each scenario is repeated, and the trouble with it. */
  readonly twice: boolean
}

export interface WrongPoint {
  readonly point: Point
  readonly place: string
  readonly wrong: readonly string[]
}

export interface PointsResult {
  readonly counts: Readonly<
    Record<string, { readonly calls: number; readonly points: number; chosen: number; played: number }>
  >
  readonly wrong: readonly WrongPoint[]
  readonly cpu: number
}

export function scenariosOf(given: string): string[] {
  const names = given === 'every' ? [...ALL_SCENARIOS] : given.split(',')
  const unknown = names.find(name => !ALL_SCENARIOS.includes(name))
  if (unknown !== undefined) throw new Error(`no scenario "${unknown}": ${ALL_SCENARIOS.join(', ')}`)
  return names
}

/** The gate repeats the trouble at one of so many of its points. */
const TWICE_OF = 4

function chosenOf(
  points: readonly Placed[],
  { which, twice }: Pick<Share, 'which' | 'twice'>,
  seen: Set<string>,
): readonly Placed[] {
  if (which === 'all') return points
  if (which === 'sites') return forSites(points)
  const chosen = forGate(points, seen)
  return which === 'gate' && twice ? chosen.filter((_, at) => at % TWICE_OF === 0) : chosen
}

/** Plays the points of these scenarios, each by itself. */
export async function playPoints(
  code: Code,
  { scenarios, which, part, parts, twice }: Share,
  report: (text: string) => void,
): Promise<PointsResult> {
  const before = process.cpuUsage()
  const seen = new Set<string>()
  const counts: Record<string, PointsResult['counts'][string]> = {}
  const wrong: WrongPoint[] = []
  for (const scenario of scenarios) {
    const clean = await cleanRun(code, scenario, twice)
    if (which === 'places') seen.clear()
    const pinned = twice || which === 'all' || which === 'sites' ? [] : pinnedOf(scenario, clean.points)
    const chosen = [...chosenOf(clean.points, { which, twice }, seen), ...pinned]
    const own = chosen.filter((_, at) => at % parts === part)
    const count = { calls: clean.calls, points: clean.points.length, chosen: chosen.length, played: 0 }
    counts[scenario] = count
    Error.stackTraceLimit = 0
    for (const [at, { point, name, place }] of own.entries()) {
      if (at % 20 === 0)
        report(`${scenario}: ${at * parts} of ${chosen.length} points, ${wrong.length} wrong`)
      const played = await playPoint(code, clean, point)
      if (played.at !== null) count.played++
      if (played.wrong.length === 0) continue
      wrong.push({ point, place: `${name}() of ${place ?? 'the program'}`, wrong: played.wrong })
      process.stderr.write(`${wrongText(wrong.at(-1)!)}\n`)
    }
  }
  const { user, system } = process.cpuUsage(before)
  return { counts, wrong, cpu: (user + system) / 1e6 }
}

/** Adds the results of several processes. */
export function sumOf(results: readonly PointsResult[]): PointsResult {
  const counts = structuredClone(results[0]!.counts)
  for (const result of results.slice(1))
    for (const [scenario, { played }] of Object.entries(result.counts)) counts[scenario]!.played += played
  return {
    counts,
    wrong: results.flatMap(({ wrong }) => wrong),
    cpu: results.reduce((sum, { cpu }) => sum + cpu, 0),
  }
}

function wrongText({ point, place, wrong }: WrongPoint): string {
  const text = pointText(point)
  return `WRONG, ${text}, ${place}: ${wrong.join('; ')}\n  npm run simulate -- --point ${text}`
}

export function pointsText({ counts, wrong, cpu }: PointsResult): string {
  const lines = wrong.map(wrongText)
  for (const [scenario, { calls, points, chosen, played }] of Object.entries(counts))
    lines.push(`${scenario}: ${calls} calls, ${points} points, ${chosen} chosen, ${played} played`)
  return `${[...lines, `${wrong.length} wrong; ${cpu.toFixed(1)} s of processor time`].join('\n')}\n`
}
