import type { SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import type { Program, Programs } from './programs.js'
import type { SupervisedSchedule } from './schedule.js'
import { type SupervisorProcess, type Supervisors, TIMES } from './supervisors.js'

/** Times of timers are whole milliseconds. */
const EARLY_MS = 5
/** A version that has failed before it served has this time to end. */
const GRACE_MS = 2_000
const LATE_MS = 500
const ENDS: ReadonlySet<NodeJS.Signals> = new Set(['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGKILL'])

/** The signals that supervisors send: they end only what is theirs, with a reason, and first politely. */
export class Signals {
  readonly wrong: string[] = []
  readonly #world: World
  readonly #programs: Programs
  readonly #schedule: SupervisedSchedule
  /** When a process was first told to end by its supervisor. */
  readonly #told = new Map<SimulatedProcess, number>()

  constructor(world: World, supervisors: Supervisors, programs: Programs, schedule: SupervisedSchedule) {
    this.#world = world
    this.#programs = programs
    this.#schedule = schedule
    world.onSignal = (from, to, signal) => {
      const supervisor = supervisors.of(from)
      if (supervisor !== undefined) this.#judge(supervisor, to, signal)
    }
  }

  #judge(supervisor: SupervisorProcess, to: SimulatedProcess, signal: NodeJS.Signals): void {
    const program = this.#programs.of(to)
    const text = `${supervisor.p.name} sends ${signal} to ${to.name}`
    this.#world.note(supervisor.p, `sends ${signal} to ${to.name}`)
    if (program === undefined || !descends(to, supervisor.p)) {
      this.wrong.push(`${text}, which is not its own`)
      return
    }
    if (!ENDS.has(signal)) return
    if (!this.#told.has(to)) {
      this.#told.set(to, this.#world.now)
      const { acts } = this.#schedule
      // A version that an operator has cancelled has its own time to end.
      if (acts.every(({ what }) => what === 'bad' || what === 'upgrade')) this.#demandEnd(supervisor, program)
    }
    const isEnding = supervisor.mayEndFrom <= this.#world.now
    if (!isEnding && this.#isLastGood(program))
      this.wrong.push(`${text}, the only healthy version, at ${this.#now}`)
    if (signal === 'SIGKILL' && !this.#mayKill(supervisor, program))
      this.wrong.push(
        `${text} ${(this.#world.now - this.#told.get(to)!).toFixed(0)} ms after it told it to end`,
      )
  }

  /** A version that has failed before it served may accept clients: it must end soon, although it ignores that it was told. */
  #demandEnd(supervisor: SupervisorProcess, { manner, p }: Program): void {
    if (manner !== 'stays sick' || supervisor.mayEndFrom <= this.#world.now) return
    this.#world.after(GRACE_MS + LATE_MS, () => {
      if (p.dead || supervisor.p.dead || supervisor.p.stoppedUntil > 0) return
      this.wrong.push(`${p.name} has failed, was told to end ${GRACE_MS + LATE_MS} ms ago, and lives`)
    })
  }

  get #now(): string {
    return this.#world.now.toFixed(3)
  }

  /** Whether no other version could serve. */
  #isLastGood(program: Program): boolean {
    const { serving, living } = this.#programs
    const { health, manner, p } = program
    const isGood = health === 'good' && manner === null && p.stoppedUntil === 0
    // Some kinds of readiness do not show whether the program accepts.
    const asks = this.#schedule.ready === 'http' || this.#schedule.ready === 'fd'
    const others = asks ? serving : living.filter(({ isHelper }) => !isHelper)
    return isGood && serving.includes(program) && others.every(each => each === program)
  }

  #mayKill({ killsFrom, stoppedAgainAt }: SupervisorProcess, { p, isHelper }: Program): boolean {
    if (Math.min(killsFrom - EARLY_MS, stoppedAgainAt) <= this.#world.now || isHelper) return true
    return this.#world.now - this.#told.get(p)! >= Math.min(GRACE_MS, TIMES.stop) - EARLY_MS
  }
}

function descends(p: SimulatedProcess, from: SimulatedProcess): boolean {
  for (let at: SimulatedProcess | null = p; at !== null; at = at.parent) if (at === from) return true
  return false
}
