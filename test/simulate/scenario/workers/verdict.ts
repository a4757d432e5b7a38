import type { DaemonStatus } from '../../../../src/operator/status-report.js'
import type { SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import type { History } from '../client.js'
import type { startOperator } from '../operator.js'
import { STAYS } from '../program.js'
import { phaseOf } from '../verdict.js'
import type { Mains } from './mains.js'
import type { WorkersSchedule } from './schedule.js'
import type { Worker, WorkerProcesses } from './worker-processes.js'

type Status = Parameters<NonNullable<NonNullable<Parameters<typeof startOperator>[3]>['status']>>[0]

/** The answers to the last orders. */
export interface Told {
  status: Status | null
  failed: string | null
  isUpgraded: boolean
}

export interface Seen {
  readonly world: World
  readonly schedule: WorkersSchedule
  readonly mains: Mains
  readonly workers: WorkerProcesses
  readonly clients: readonly History[]
  /** When the service was first ordered to end; infinite if it never was. */
  readonly stoppedAt: number
  /** When no process was left that had the state; infinitely long ago if that never was. */
  readonly lostAt: number
  /** The times when no process was left that had a listener. */
  readonly closed: readonly number[]
  /** When the last upgrade was ordered. */
  readonly begun: number
  readonly told: Told
}

const DEATH_MS = 60
const ANSWER_MS = 5_000
/** A follower has heard of a change after so long. */
const FOLLOW_MS = 1_000
const EXPECTED = /^ERR_FDB_/
/** The main process that is to be replaced lacks descriptors, memory, or space for the list of its workers. */
const LACKS: ReadonlySet<string> = new Set([
  'ERR_FDB_NO_DESCRIPTORS',
  'ERR_FDB_STATE_FULL',
  'ERR_FDB_SIDE_FILE',
])
const ENDED_EARLY = /^ended by SIG\w+ before/

export function servingIn(workers: WorkerProcesses): Worker[] {
  return workers.all.filter(worker => phaseOf(worker) === 'serving')
}

/** Whether a signal has ended the main process before it had taken over. */
export function hasGivenUp({ dead, failures }: SimulatedProcess): boolean {
  return dead && failures.some(({ message }) => ENDED_EARLY.test(message))
}

/** Returns what is wrong with the processes when the workers were replaced after all trouble. */
export function wrongAtLast({ schedule, mains, workers, begun, told }: Seen): string[] {
  const wrong: string[] = []
  const { failed, isUpgraded, status } = told
  if (failed !== null) wrong.push(`a last upgrade fails: ${failed}`)
  else if (!isUpgraded) wrong.push('a last upgrade has no answer')
  if (mains.living.length !== 1) wrong.push(`${mains.living.map(({ name }) => name)} live as main processes`)
  if (status === null) return [...wrong, 'the status has no answer']
  const all = (status as Partial<DaemonStatus>).workers?.all ?? []
  const count = schedule.workers
  const serving = servingIn(workers)
  for (let slot = 0; slot < count; slot++) {
    const own = serving.filter(worker => worker.slot === slot)
    if (own.length !== 1) wrong.push(`${own.length} processes of worker ${slot} serve`)
    else if (own[0]!.p.startedAt < begun) wrong.push(`worker ${slot} was not replaced by a last upgrade`)
    const report = all.find(({ index }) => index === slot)
    if (report?.phase !== 'serving' || report.pid !== own[0]?.p.pid)
      wrong.push(`the status says that worker ${slot} is ${report?.phase}, as process ${report?.pid}`)
  }
  const surplus = serving.filter(({ slot }) => slot >= count)
  if (surplus.length > 0) wrong.push(`${surplus.map(({ p }) => p.name)} serve, and are not wanted`)
  for (const { slot, p } of serving) {
    const { doubled, last } = workers.work.get(slot)!
    if (doubled !== null) wrong.push(doubled)
    if (last !== p.name) wrong.push(`${p.name} serves, and ${last} does its once-only work`)
  }
  return wrong
}

/** Returns which promises to clients were broken. */
export function wrongOfClients({
  world,
  schedule,
  mains,
  workers,
  clients,
  stoppedAt,
  lostAt,
  closed,
}: Seen): string[] {
  const wrong: string[] = []
  const begins = workers.all.flatMap(({ served }) => served.map(({ from }) => from))
  const isWithout = (at: number) =>
    closed.some(time => time <= at && !begins.some(from => from > time && from < at))
  for (const { p } of workers.all)
    for (const failure of p.failures) {
      const { code = '' } = failure as NodeJS.ErrnoException
      if (!EXPECTED.test(code)) wrong.push(`${p.name} fails: ${code} ${failure.message}`)
    }
  for (const { name, failures, startedAt, diedAt, stoppedUntil } of mains.all) {
    // One that cannot take over from a stopped one gives up.
    const before = mains.all.filter(other => other.startedAt < startedAt)
    const waits = before.some(other => other.stoppedUntil > startedAt)
    // So does one for which the present one lacks something.
    const lacks = startedAt > mains.all[0]!.startedAt && schedule.acts.some(({ what }) => what === 'lack')
    // One of the two was stopped, and the one before serves on.
    const isLate = (waits || stoppedUntil > startedAt) && before.some(other => other.diedAt > diedAt)
    // The present one refuses a second next one.
    const isSecond = before.filter(other => other.diedAt > startedAt).length > 1
    for (const { code, message, stack } of failures as NodeJS.ErrnoException[])
      if (
        !ENDED_EARLY.test(message) &&
        !(waits && code === 'ERR_FDB_DEADLINE') &&
        !(isLate && (code === 'ERR_FDB_FENCED' || code === 'ERR_FDB_DEADLINE')) &&
        !(isSecond && code === 'ERR_FDB_BUSY') &&
        !(lacks && LACKS.has(code ?? ''))
      )
        wrong.push(`${name} fails: ${stack}`)
  }
  const all = [...mains.all, ...workers.all.map(({ p }) => p)]
  const stops = all.map(({ stoppedUntil }) => stoppedUntil)
  const deaths = all.filter(({ dead, exit }) => dead && exit.code !== 0)
  const cutUntil = (diedAt: number) => Math.max(diedAt, ...stops.filter(until => until > diedAt)) + DEATH_MS
  for (const [index, { acknowledged, refused, askedAt, cut, wrong: answers }] of clients.entries()) {
    const early = refused.filter(({ at }) => at < stoppedAt && !isWithout(at))
    if (early.length > 0)
      wrong.push(`${early.length} connections were refused, the first at ${early[0]!.at.toFixed(3)}`)
    if (answers.length > 0) wrong.push(`wrong answers: ${answers}`)
    if (askedAt !== null && world.now - askedAt > ANSWER_MS)
      wrong.push(`a request has no answer since ${askedAt.toFixed(3)}`)
    const bad = cut.filter(
      ({ at }) => at < stoppedAt && !deaths.some(({ diedAt }) => at >= diedAt && at < cutUntil(diedAt)),
    )
    if (bad.length > 0 && index !== STAYS)
      wrong.push(
        `a connection of a healthy worker was closed at ${bad[0]!.at.toFixed(3)}${bad[0]!.inFlight ? ', with a request in flight' : ''}`,
      )
    if (stoppedAt < Number.POSITIVE_INFINITY) continue
    for (const { p, notes } of servingIn(workers)) {
      const due = acknowledged.filter(({ at }) => at > lostAt && at < world.now - FOLLOW_MS)
      const lost = p.ask(() => due.filter(({ key }) => !notes!.has(key)))
      if (lost.length > 0)
        wrong.push(`${p.name} lacks ${lost.length} of ${acknowledged.length} acknowledged changes`)
    }
  }
  return wrong
}

/** Returns what an ended service has left. */
export function wrongAfterEnd({ world, mains, workers }: Seen): string[] {
  const left = [...mains.living, ...workers.living]
  return [
    ...left.map(({ name }) => `the service was ended, and ${name} lives`),
    ...world.kernel.addresses.names.map(name => `the service was ended, and ${name} is bound`),
  ]
}

/** A client with a request under way when the service is stopped. */
interface Asked {
  readonly history: History
  /** The number of its answers before that one. */
  readonly before: number
}

export function askedBefore(history: History): Asked {
  return { history, before: history.answers.length }
}

/** Returns the requests that were under way when the service was stopped and got no answer, or were refused. `takesMs`: the time that each took. */
export function wrongOfAsked(asked: readonly Asked[], takesMs: number): string[] {
  return asked.flatMap(({ history, before }) => {
    const answer = history.answers[before] ?? 'cut'
    if (answer === 'made') return []
    return [`a request of ${takesMs} ms was under way when the service was stopped, and was ${answer}`]
  })
}
