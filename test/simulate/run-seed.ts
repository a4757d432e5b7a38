import type { Code } from './globals.js'
import { DEAD } from './process.js'
import { type AnySchedule, runAny } from './scenario/any.js'
import type { Outcome } from './scenario/run.js'
import { actText } from './scenario/schedule.js'

/** Rejections that no code has handled since the last run. Rejections of dead processes say nothing. */
const unhandled: string[] = []

/** Collects rejections that no code has handled: Node reports them when the stack is empty. Call it once. */
export function collectUnhandled(): void {
  process.on('unhandledRejection', (error: Error) => {
    if (error !== DEAD && error.cause !== DEAD) unhandled.push(error.message)
  })
}

/** Returns the rejections that no code has handled since it was called last. */
export function takeUnhandled(): string[] {
  return unhandled.splice(0)
}

/** Not within a microtask: there those of simulated processes would wait. */
export function afterMicrotasks<T>(act: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        resolve(act())
      } catch (error) {
        reject(error)
      }
    })
  })
}

/** Runs a schedule. The same seed and schedule give the same story. */
export async function runSeed(
  code: Code,
  seed: number,
  schedule: AnySchedule,
  trace = false,
): Promise<Outcome> {
  const { wrong, world } = await afterMicrotasks(() => runAny(code, seed, schedule, trace))
  const rejections = await afterMicrotasks(takeUnhandled)
  return { world, wrong: [...wrong, ...rejections.map(each => `unhandled rejection: ${each}`)] }
}

/** Returns a schedule with less in it that still breaks a promise with this seed. */
export async function shortest(code: Code, seed: number, schedule: AnySchedule): Promise<AnySchedule> {
  for (const smaller of smallerThan(schedule)) {
    const { wrong } = await runSeed(code, seed, smaller)
    if (wrong.length > 0) return shortest(code, seed, smaller)
  }
  return schedule
}

function* smallerThan(schedule: AnySchedule): Generator<AnySchedule> {
  const { buffer, late, ...rest } = schedule
  if (late) yield { ...rest, ...(buffer !== undefined && { buffer }) } as AnySchedule
  if (buffer !== undefined) yield { ...rest, ...(late && { late }) } as AnySchedule
  for (const act of rest.acts)
    yield { ...schedule, acts: rest.acts.filter(each => each !== act) } as AnySchedule
}

export function scheduleText(schedule: AnySchedule): string {
  const { kind, acts, buffer, late } = schedule
  const more = [
    ...(buffer === undefined ? [] : [`sockets hold ${buffer} bytes`]),
    ...(late ? [`${Math.round(late.share * 100)} % of the timers are up to ${late.ms} ms late`] : []),
  ]
  return `${kind}, ${aboutText(schedule)}: ${[...acts.map(actText), ...more].join('; ') || 'nothing'}`
}

function aboutText(schedule: AnySchedule): string {
  const { hosting } = schedule
  if (hosting === 'workers') return `${schedule.workers} ${hosting}, ${schedule.replace}`
  if (hosting === 'run') return `--ready ${schedule.ready} --restart ${schedule.restart}`
  const { moves, callers, unservable, times } = schedule
  const facts: readonly (string | false | undefined)[] = [
    schedule.stateFile && 'state file',
    schedule.ordered && 'upgrades by order',
    moves && `${moves.clients} more clients, whose connections move ${moves.perSecond} a second`,
    times && `once-only work ends in ${times.workEndsMs} ms, later versions load for ${times.loadsMs} ms`,
    callers !== undefined && `${callers} clients call when B begins to serve`,
    unservable && 'a listener of B cannot be served at the commit',
  ]
  return [hosting, ...facts.filter(Boolean)].join(', ')
}
