import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import type { History } from './client.js'
import type { Ledger } from './ledger.js'
import { type OnceOnlyWork, STAYS, type Version } from './program.js'
import { refusals } from './refusals.js'
import type { Act, Schedule } from './schedule.js'
import { shortProbations } from './standbys.js'

export interface Seen {
  readonly world: World
  readonly schedule: Schedule
  readonly versions: ReadonlyMap<string, Version>
  readonly daemons: readonly SimulatedProcess[]
  readonly clients: readonly History[]
  /** A last version, started after all trouble, serves. */
  readonly tookOver: boolean
  readonly work: OnceOnlyWork
  /** A version that served without once-only work before the last version started; null if there was none. */
  readonly forgotten: string | null
  /** Null without a state file. */
  readonly ledger: Ledger | null
  /** When all processes ended together, and whether the power was cut; null if they never did. */
  readonly ended: { readonly at: number; readonly cut: boolean } | null
}

/** A connection may end this long after the death of a process that had it. */
const DEATH_MS = 60

/** Once-only work that is not done for this long has stopped. */
export const IDLE_MS = 2_000

/** A version that leaves closes its connections after this time, by default. */
export const DRAIN_MS = 30_000
/** A version that leaves finds a new one within this time, and gives it connections. */
const BACK_MS = 1_000

/** Failures of a version that the program must expect. */
const EXPECTED = /^ERR_FDB_/
/** The state file is refused, although nothing has damaged it. */
const REFUSED = /^ERR_FDB_STATE_(?:DAMAGED|FORMAT)$/
/** Changes that are not durable are in the state file so long after them, and on the disk with the next sync: see docs/state.md. */
const WRITTEN_MS = 500
const SYNCED_MS = 3_000

/** Returns the promises that were broken. */
export function verdict(seen: Seen): string[] {
  const { world, versions, clients, schedule } = seen
  // A process that is stopped keeps descriptors that a dead one has sent to it.
  const stops = [...world.processes.values()].map(({ stoppedUntil }) => stoppedUntil)
  const cutUntil = (diedAt: number) => Math.max(diedAt, ...stops.filter(until => until > diedAt)) + DEATH_MS
  const { A, B } = Object.fromEntries(versions) as Record<string, Version>
  const wrong: string[] = []
  const does = (act: Act['what']) => schedule.acts.some(({ what }) => what === act)
  // No connection is the daemon's.
  const deaths = [...versions.values()].map(({ p }) => p).filter(({ dead }) => dead)
  for (const { p, mayRefuse } of versions.values())
    for (const failure of p.failures) {
      const { code = '' } = failure as NodeJS.ErrnoException
      if (!EXPECTED.test(code) || (REFUSED.test(code) && !mayRefuse))
        wrong.push(`${p.name} fails: ${code} ${failure.message}`)
    }
  // A new service begins if all versions with the state have ended.
  const wasEnded = schedule.acts.some(({ what }) => what === 'close' || what === 'stop service')
  const startedAgain = [...versions.values()].filter(each => each !== A && each.first)
  const mayStartAgain =
    wasEnded || seen.ended !== null || (A!.p.dead && (!B?.hasServed || B.first || B.p.dead))
  if (startedAgain.length > 0 && !mayStartAgain) wrong.push('the service ended, with its state')
  for (const { p, ceasedAt } of versions.values()) {
    const others = [...versions.values()].filter(other => other.p !== p && other.p.startedAt <= ceasedAt)
    // A daemon's order to leave is final, also if the other version dies before this one hears it.
    if (
      schedule.hosting === 'embedded' &&
      ceasedAt < p.diedAt &&
      !wasEnded &&
      others.every(other => other.p.diedAt <= ceasedAt)
    )
      wrong.push(`${p.name} ceased to serve, and no other version was alive`)
  }
  if (schedule.acts.length === 1 && schedule.late === undefined)
    for (const { p, endsBy } of versions.values())
      if (Math.min(p.diedAt, world.now) > endsBy)
        wrong.push(`${p.name} was ordered to end by ${endsBy.toFixed(0)}, and did not`)
  wrong.push(...abandonments([...versions.values()]))
  wrong.push(...shortProbations(schedule, versions))
  if (seen.forgotten !== null) wrong.push(`${seen.forgotten} serves, and has forgotten the once-only work`)
  if (!does('disk') && !does('lack')) wrong.push(...refusals([...versions.values()], seen.daemons))
  if (!seen.tookOver) wrong.push(`a later version cannot take over: ${phases(versions)}`)
  const server = [...versions.values()].find(version => phaseOf(version) === 'serving')
  if (server !== undefined && seen.ledger !== null)
    wrong.push(...lostInFile(seen, seen.ledger, server, startedAgain))
  if (startedAgain.length > 0) return unique(wrong)
  if (server === undefined) return unique([...wrong, `no version serves: ${phases(versions)}`])
  // An order to end, of the program or of an operator in other trouble, is an order to close connections.
  const isStopped =
    (schedule.acts.length > 1 && (does('stop service') || (does('close') && does('break')))) ||
    // A daemon keeps the service without a version: connections end with the last one.
    (schedule.hosting === 'daemon' && (does('stop service') || does('close'))) ||
    // So it does if the version dies to which an operator has rolled back.
    (schedule.hosting === 'daemon' && does('rollback') && schedule.acts.length > 1)
  // A version that was given up does not serve again: without another one its connections end with the time of its drain.
  const isAlone = (at: number) =>
    schedule.hosting === 'daemon' &&
    [...versions.values()].every(
      ({ p, ceasedAt }) => p.startedAt + BACK_MS > at || p.diedAt <= at || ceasedAt + DRAIN_MS <= at,
    )
  const mayCutFrom = isStopped ? 0 : Math.min(...[...versions.values()].map(({ cutsFrom }) => cutsFrom))
  for (const [index, { acknowledged, refused, askedAt, cut, wrong: answers }] of clients.entries()) {
    const lost = server.p.ask(() => acknowledged.filter(({ key }) => !server.notes!.has(key)))
    if (lost.length > 0) wrong.push(`${lost.length} of ${acknowledged.length} acknowledged changes are lost`)
    if (refused.length > 0)
      wrong.push(`${refused.length} connections were refused, the first at ${refused[0]!.at.toFixed(3)}`)
    if (askedAt !== null && world.now - askedAt > 5_000) wrong.push('a request has no answer')
    if (answers.length > 0) wrong.push(`wrong answers: ${answers}`)
    const bad = cut.filter(
      ({ at }) =>
        at < mayCutFrom &&
        !isAlone(at) &&
        !deaths.some(({ diedAt }) => at >= diedAt && at < cutUntil(diedAt)),
    )
    if (bad.length > 0 && index !== STAYS)
      wrong.push(
        `a connection of a healthy version was closed at ${bad[0]!.at.toFixed(3)}${bad[0]!.inFlight ? ', with a request in flight' : ''}`,
      )
  }
  const { doubled, last, lastAt } = seen.work
  if (doubled !== null) wrong.push(doubled)
  if (last !== null && last !== server.p.name)
    wrong.push(`${server.p.name} serves, and ${last} does the once-only work`)
  if (last !== null && world.now - lastAt > IDLE_MS)
    wrong.push(`no version does the once-only work since ${lastAt.toFixed(3)}`)
  return unique(wrong)
}

/** Returns the connections that programs had when they ended by themselves: their clients were reset. */
export function abandonments(versions: readonly Version[]): string[] {
  const wrong = versions.filter(({ abandoned }) => abandoned > 0)
  return wrong.map(
    ({ p, abandoned }) => `${p.name} ended by itself at ${p.diedAt.toFixed(3)} with ${abandoned} connections`,
  )
}

/** Returns what a service with a state file has lost, although versions of it have begun with the file alone. */
function lostInFile(
  { clients, ended, schedule }: Seen,
  ledger: Ledger,
  server: Version,
  startedAgain: readonly Version[],
): string[] {
  const wrong: string[] = []
  const { acts, late } = schedule
  const isLost = (key: string) => server.p.ask(() => !server.notes!.has(key))
  const durable = ledger.keys.filter(isLost)
  if (durable.length > 0) wrong.push(`${durable.length} of ${ledger.keys.length} durable changes are lost`)
  const since = Math.max(0, ...startedAgain.map(({ firstAt }) => firstAt))
  const isOnlyTrouble = acts.length === 1 && late === undefined && acts[0]!.what !== 'damage'
  const before = ended !== null && isOnlyTrouble ? ended.at - (ended.cut ? SYNCED_MS : WRITTEN_MS) : 0
  for (const { acknowledged, wrong: answers } of clients) {
    // A part of a change may have been made before the service began again, although a later one was answered after that.
    const isDue = ({ askedAt, at }: { askedAt: number; at: number }) => askedAt > since || at < before
    const lost = acknowledged.filter(each => isDue(each) && isLost(each.key))
    if (lost.length > 0)
      wrong.push(`${lost.length} acknowledged changes are lost, the first of ${lost[0]!.at.toFixed(3)}`)
    if (answers.length > 0) wrong.push(`wrong answers: ${answers}`)
  }
  return wrong
}

function phases(versions: ReadonlyMap<string, Version>): string {
  return [...versions.values()].map(version => `${version.p.name} ${phaseOf(version)}`).join(', ')
}

export function phaseOf({ p, member }: Version): string {
  if (p.dead) return 'dead'
  // The phase asks the kernel for seals of this process.
  p.enter()
  return member?.phase ?? 'joining'
}

function unique(list: readonly string[]): string[] {
  return [...new Set(list)]
}
