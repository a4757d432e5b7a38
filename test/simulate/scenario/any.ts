import type { Code } from '../globals.js'
import { Livelock, World } from '../world.js'
import { hasTls } from './records.js'
import { type Outcome, Run } from './run.js'
import { KINDS, type Kind, type Schedule, scheduleOf } from './schedule.js'
import { SupervisedRun } from './supervised/run.js'
import { type SupervisedSchedule, supervisedScheduleOf } from './supervised/schedule.js'
import { WorkersRun } from './workers/run.js'
import { type WorkersSchedule, workersScheduleOf } from './workers/schedule.js'

export type AnySchedule = Schedule | WorkersSchedule | SupervisedSchedule

export const ALL_KINDS = [...KINDS, 'workers', 'run'] as const
export type AnyKind = (typeof ALL_KINDS)[number]

/** The options of a run that are given; the seed chooses the others. */
export interface Wanted {
  readonly kind?: AnyKind | undefined
  readonly hosting?: Schedule['hosting'] | undefined
  readonly stateFile?: boolean | undefined
}

/** With TLS more reads and writes move a part: connections move amid a record. */
const TLS_PARTIAL = 0.3

/** One run of so many has workers, and another one `fd-broker run`, unless the kind or the hosting is given. */
const OTHERS_EVERY = 8

export function anyScheduleOf(seed: number, { kind, hosting, stateFile }: Wanted = {}): AnySchedule {
  const isAny = kind === undefined && hosting === undefined && stateFile === undefined
  if (kind === 'workers' || (isAny && seed % OTHERS_EVERY === 0)) return workersScheduleOf(seed)
  if (kind === 'run' || (isAny && seed % OTHERS_EVERY === 4)) return supervisedScheduleOf(seed)
  return scheduleOf(seed, kind as Kind | undefined, hosting, stateFile)
}

/** Runs one schedule. The same seed and schedule give the same story, byte for byte. */
export function runAny(code: Code, seed: number, schedule: AnySchedule, trace = false): Outcome {
  const world = new World({
    seed,
    trace,
    ...(schedule.late && { late: schedule.late }),
    ...(hasTls(seed) && schedule.hosting !== 'run' && { partial: TLS_PARTIAL }),
  })
  if (schedule.buffer !== undefined) world.kernel.buffer = schedule.buffer
  try {
    return { wrong: runOf(code, world, schedule).run(), world }
  } catch (error) {
    if (!(error instanceof Livelock)) throw error
    return { wrong: [error.message], world }
  }
}

function runOf(code: Code, world: World, schedule: AnySchedule): { run(): string[] } {
  switch (schedule.hosting) {
    case 'workers':
      return new WorkersRun(code, world, schedule)
    case 'run':
      return new SupervisedRun(code, world, schedule)
    default:
      return new Run(code, world, schedule)
  }
}
