import type { Code } from '../globals.js'
import { SupervisedRun } from '../scenario/supervised/run.js'
import type { SupervisedAct } from '../scenario/supervised/schedule.js'
import { WorkersRun } from '../scenario/workers/run.js'
import type { WorkersAct } from '../scenario/workers/schedule.js'
import { World } from '../world.js'
import type { Point } from './point.js'
import type { PlayableRun, Played } from './service.js'
import { Tap } from './tap.js'

const SEED = 1
const MOST_STEPS = 200_000
const REMOVES = /^(?:rm|unlink)/
const FILE = /^the service was ended, and the file .* remains$/
/** A trouble that the acts of a point do not have: no call has such a number. */
const NEVER = Number.MAX_SAFE_INTEGER

/** A scenario that is a fixed schedule of another kind of runs, whose verdict counts. */
export type ScheduledScenario =
  | { readonly hosting: 'workers'; readonly forMs: number; readonly acts: readonly WorkersAct[] }
  | { readonly hosting: 'run'; readonly forMs: number; readonly acts: readonly SupervisedAct[] }

/** Plays a schedule with the trouble of one point, or none. */
export class ScheduledRun implements PlayableRun {
  readonly world: World
  readonly tap: Tap
  readonly #code: Code
  readonly #scenario: ScheduledScenario
  readonly #point: Point | null

  constructor(code: Code, scenario: ScheduledScenario, point: Point | null, trace: boolean) {
    this.#code = code
    this.#scenario = scenario
    this.#point = point
    this.tap = new Tap(point)
    this.world = new World({ seed: SEED, trace, partial: 0, mostSteps: MOST_STEPS })
    this.world.tap = this.tap
  }

  run(): Played {
    const { tap, world } = this
    const wrong = this.#scheduled.run().filter(text => !this.#isOfTrouble(text))
    return { world, wrong, at: tap.played, censuses: [] }
  }

  /** Whether the trouble itself explains the text: a process that starts fails and names the error, or a file could not be removed. */
  #isOfTrouble(text: string): boolean {
    const { trouble, process = '' } = this.#point ?? {}
    if (trouble?.what === 'truncated')
      return text.startsWith(`${process} fails: FdbError: descriptors were lost`)
    if (trouble?.what !== 'fails') return false
    const p = [...this.world.processes.values()].find(({ name }) => name === process)
    const starts = p?.startedAt !== undefined && p.startedAt >= this.tap.activeSince
    // A process that gets EAGAIN sees a full queue of another one that listens.
    if (starts && text.startsWith(`${process} fails: FdbError: `))
      return text.includes(`(${trouble.code})`) || trouble.code === 'EAGAIN'
    return REMOVES.test(this.tap.played ?? '') && FILE.test(text)
  }

  get #scheduled(): { run(): string[] } {
    const [code, world, scenario] = [this.#code, this.world, this.#scenario]
    const { forMs } = scenario
    if (scenario.hosting === 'workers') {
      const acts = [...scenario.acts, ...this.#trouble<WorkersAct>()]
      const about = { kind: 'workers', hosting: 'workers', workers: 2, replace: 'one-by-one' } as const
      return new WorkersRun(code, world, { ...about, acts }, forMs)
    }
    const acts = [...scenario.acts, ...this.#trouble<SupervisedAct>()]
    const about = { kind: 'run', hosting: 'run', restart: 'always', ready: 'http' } as const
    return new SupervisedRun(code, world, { ...about, acts }, forMs)
  }

  /** The trouble of the point as the verdict of a schedule knows it. */
  #trouble<A extends WorkersAct | SupervisedAct>(): A[] {
    const { trouble, process } = this.#point ?? {}
    if (trouble === undefined) return []
    const at = { who: process, call: NEVER }
    // Half of a write: the memory ends amid it.
    if (trouble.what === 'fails' || trouble.what === 'half')
      return [{ what: 'lack', ...at, calls: 1, code: 'EMFILE' } as unknown as A]
    if (trouble.what === 'stops after') return [{ what: 'stop', ...at, ms: 1 } as unknown as A]
    return trouble.what.startsWith('dies') ? [{ what: 'kill', ...at } as unknown as A] : []
  }
}
