import type { Code } from '../globals.js'
import { Livelock, World } from '../world.js'
import { type Outcome, Run } from './run.js'
import { KINDS, type Kind, type Schedule, scheduleOf } from './schedule.js'
import { WorkersRun } from './workers/run.js'
import { type WorkersSchedule, workersScheduleOf } from './workers/schedule.js'

export type AnySchedule = Schedule | WorkersSchedule

export const ALL_KINDS = [...KINDS, 'workers'] as const
export type AnyKind = (typeof ALL_KINDS)[number]

/** The options of a run that are given; the seed chooses the others. */
export interface Wanted {
  readonly kind?: AnyKind | undefined
  readonly hosting?: Schedule['hosting'] | undefined
  readonly stateFile?: boolean | undefined
}

/** One run of so many has workers, unless the kind or the hosting is given. */
const WORKERS_EVERY = 8

export function anyScheduleOf(seed: number, { kind, hosting, stateFile }: Wanted = {}): AnySchedule {
  const isAny = kind === undefined && hosting === undefined && stateFile === undefined
  if (kind === 'workers' || (isAny && seed % WORKERS_EVERY === 0)) return workersScheduleOf(seed)
  return scheduleOf(seed, kind as Kind | undefined, hosting, stateFile)
}

/** Runs one schedule. The same seed and schedule give the same story, byte for byte. */
export function runAny(code: Code, seed: number, schedule: AnySchedule, trace = false): Outcome {
  const world = new World({ seed, trace, ...(schedule.late && { late: schedule.late }) })
  if (schedule.buffer !== undefined) world.kernel.buffer = schedule.buffer
  try {
    const run =
      schedule.hosting === 'workers' ? new WorkersRun(code, world, schedule) : new Run(code, world, schedule)
    return { wrong: run.run(), world }
  } catch (error) {
    if (!(error instanceof Livelock)) throw error
    return { wrong: [error.message], world }
  }
}
