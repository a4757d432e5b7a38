import type { Version } from './program.js'
import type { Schedule } from './schedule.js'

/** A version may hear so much later than its holder that the probation has begun. */
const SLACK_MS = 200

/** The times for which a version has stood by until it left. */
export class Standbys {
  readonly left: { readonly from: number; readonly to: number }[] = []
  readonly probationMs: number
  #from: number | null = null

  constructor(probationMs: number) {
    this.probationMs = probationMs
  }

  /** Called at each change of the version's phase. */
  change(phase: string, now: number): void {
    if (phase === 'leaving' && this.#from !== null) this.left.push({ from: this.#from, to: now })
    this.#from = phase === 'standby' ? now : null
  }
}

/** Returns the versions that stood by for less than a probation, although no order and no next version has ended it. */
export function shortProbations({ acts, late }: Schedule, versions: ReadonlyMap<string, Version>): string[] {
  const isOrdered = acts.some(({ what }) => !['kill', 'dies', 'crasher'].includes(what))
  const hitsDaemon = acts.some(act => 'who' in act && act.who !== 'A' && act.who !== 'B')
  if (isOrdered || hitsDaemon || late !== undefined) return []
  const starts = [...versions.values()].map(({ p }) => p.startedAt)
  return [...versions.values()].flatMap(({ p, standbys }) =>
    standbys.left
      .filter(({ from, to }) => to - from < standbys.probationMs - SLACK_MS)
      .filter(({ from, to }) => starts.every(at => at < from || at > to))
      .map(
        ({ from, to }) => `${p.name} stood by for ${(to - from).toFixed(0)} ms only, from ${from.toFixed(3)}`,
      ),
  )
}
