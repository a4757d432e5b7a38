import type { ServiceStatus } from '../../../../src/operator/status-report.js'
import type { World } from '../../world.js'
import { isEvents } from '../census.js'
import { CONTROL, STATE_FILE } from '../program.js'
import type { ClientHistory } from './clients.js'
import type { Programs } from './programs.js'
import type { SupervisedSchedule } from './schedule.js'
import type { Signals } from './signals.js'
import type { Supervisors } from './supervisors.js'

/** An order of an operator, and its answer. */
export interface Order {
  readonly what: string
  readonly at: number
  answeredAt: number | null
  failed: string | null
  pid: number | null
  status: unknown
}

export interface Seen {
  readonly world: World
  readonly schedule: SupervisedSchedule
  readonly supervisors: Supervisors
  readonly programs: Programs
  readonly clients: readonly ClientHistory[]
  readonly orders: readonly Order[]
  readonly signals: Signals
}

const ANSWER_MS = 5_000
/** Processes of a dead supervisor are killed within this time. */
const DEATH_MS = 200

/** Returns what is wrong when the program was upgraded after all trouble. */
export function wrongAtLast(
  { programs, supervisors }: Seen,
  { begun, upgrade, status }: { begun: number; upgrade: Order; status: unknown },
): string[] {
  const wrong: string[] = []
  if (upgrade.answeredAt === null) wrong.push('a last upgrade has no answer')
  else if (upgrade.failed !== null) wrong.push(`a last upgrade fails: ${upgrade.failed}`)
  const { living } = programs
  const [last] = living
  if (living.length !== 1) wrong.push(`${living.map(({ p }) => p.name)} live at the end`)
  else if (last!.p.startedAt < begun) wrong.push(`${last!.p.name} was not replaced by a last upgrade`)
  const zombies = programs.all.filter(({ p }) => p.isZombie)
  if (zombies.length > 0) wrong.push(`${zombies.map(({ p }) => p.name)} were not waited for`)
  const { pid, role } = (status ?? {}) as Partial<ServiceStatus>
  if (supervisors.living === null) wrong.push('no supervisor lives at the end')
  else if (role !== 'serving' || pid !== last?.p.pid) wrong.push(`the status says ${role}, process ${pid}`)
  return wrong
}

/** Returns which promises to clients were broken. */
export function wrongOfClients({ world, supervisors, programs, clients }: Seen): string[] {
  const wrong: string[] = []
  for (const { p } of [...supervisors.all, ...programs.all])
    for (const failure of p.failures) wrong.push(`${p.name} fails: ${failure.stack}`)
  // From the start of a supervisor until its end it has the listeners.
  const isUp = (at: number) =>
    supervisors.all.some(
      ({ p, mayEndFrom }) => p.startedAt + ANSWER_MS < at && at < Math.min(p.diedAt, mayEndFrom),
    )
  for (const { refused, cut, wrong: answers, askedAt } of clients) {
    const early = refused.filter(({ at }) => isUp(at))
    if (early.length > 0)
      wrong.push(`${early.length} connections were refused, the first at ${early[0]!.at.toFixed(3)}`)
    wrong.push(...answers)
    if (askedAt !== null && world.now - askedAt > ANSWER_MS)
      wrong.push(`a request has no answer since ${askedAt.toFixed(3)}`)
    for (const { at, how, end } of cut) {
      const program = programs.acceptorOf(end)
      const isExcused =
        program === undefined
          ? !isUp(at) || supervisors.all.some(({ p }) => at >= p.diedAt && at < p.diedAt + DEATH_MS)
          : program.p.dead && (program.isAtFault || program.p.exit.signal !== null)
      if (!isExcused)
        wrong.push(
          `a request has no answer (${how}) at ${at.toFixed(3)} from ${program?.p.name ?? 'the queue'}`,
        )
    }
  }
  return wrong
}

/** The process that has an order ends, or no process hears it; an operator's process lacks what others lack. */
const UNHEARD = ['ERR_FDB_NO_HOLDER', 'ERR_FDB_CHANNEL_CLOSED', 'ERR_FDB_CHANNEL_RESET', 'ERR_FDB_DEADLINE']
const STARTS = [
  ...['ERR_FDB_ABORTED', 'ERR_FDB_CONFIG', 'ERR_FDB_SUCCESSOR_EXITED', 'ERR_FDB_UNHEALTHY'],
  ...['ERR_FDB_SPAWN', 'ERR_FDB_NO_BINARY', 'ERR_FDB_NO_CWD', 'ERR_FDB_NO_DESCRIPTORS'],
  ...['ERR_FDB_BIND', 'ERR_FDB_ADDRESS_IN_USE', 'ERR_FDB_BIND_DENIED'],
]
const REFUSALS: Readonly<Record<string, readonly string[]>> = {
  upgrade: STARTS,
  'cancelled upgrade': STARTS,
  rollback: [...STARTS, 'ERR_FDB_NO_STANDBY', 'ERR_FDB_BUSY'],
  reload: ['ERR_FDB_BUSY', 'ERR_FDB_CONFIG'],
}

/** Returns which orders had no answer in time, or one that is none to this order. */
export function wrongOfOrders({ orders }: Seen): string[] {
  return orders.flatMap(({ what, at, answeredAt, failed }) => {
    const order = `the order ${what} of ${at.toFixed(3)}`
    if (answeredAt === null) return [`${order} has no answer`]
    const isRefusal = failed === null || [...UNHEARD, ...(REFUSALS[what] ?? [])].includes(failed)
    return isRefusal ? [] : [`${order} is answered by ${failed}`]
  })
}

const KEPT = new Set([`${CONTROL}.lock`, `${CONTROL}.members`, STATE_FILE])

/** Returns what an ended service has left. */
export function wrongAfterEnd({ world, supervisors, programs }: Seen): string[] {
  const left = [...(supervisors.living === null ? [] : [supervisors.living]), ...programs.living]
  const files = [...world.kernel.names.keys()].filter(
    name => name.startsWith('/run/shop/') && !KEPT.has(name) && !isEvents(name),
  )
  const isKilled = supervisors.all.some(({ p, code }) => p.dead && code === null)
  return [
    ...left.map(({ p }) => `the service was ended, and ${p.name} lives`),
    ...world.kernel.addresses.names.map(name => `the service was ended, and ${name} is bound`),
    ...(isKilled ? [] : files.map(name => `the service was ended, and the file ${name} remains`)),
    ...programs.all.filter(({ p }) => p.isZombie).map(({ p }) => `${p.name} was not waited for`),
  ]
}
