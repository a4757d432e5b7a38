import { isPromise } from 'node:util/types'
import { CountByKey } from '../base/count-by-key.js'
import { inheritedOutput } from '../base/successor-output.js'
import type { Registry } from '../holder/registry.js'
import { inspect } from '../kernel/index.js'
import { listenerAddress } from '../listeners/index.js'
import type { MetricName } from '../metrics/definitions.js'
import type { Series } from '../metrics/totals.js'
import { activeResources } from '../node/active-resources.js'
import type { DrainReport, StatusReport } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import type { Listener } from './listeners/listener.js'
import type { MemberRuntime } from './runtime.js'

const processStartedAt = new Date(Date.now() - process.uptime() * 1000).toISOString()

export function describe(runtime: MemberRuntime): StatusReport {
  const { application, hosting, joined, machine, moves, older, origin, registry, settings } = runtime
  const listeners = runtime.listeners.all
  const { file, takenOver } = runtime.state
  const log = runtime.view
  const { member } = machine
  const { sequence, entries, bytes, segments } = log.stats()
  return {
    service: settings.service,
    follows: settings.follow,
    control: settings.control,
    hosting: settings.control === null ? 'none' : member.scope === 'member' ? 'daemon' : 'embedded',
    pid: process.pid,
    generation: origin.generation,
    epoch: member.epoch,
    role: member.phase,
    phase: machine.holder?.phase ?? (joined.holder === null ? 'idle' : 'probation'),
    serviceStartedAt: new Date(origin.serviceStartedAt).toISOString(),
    uptimeSeconds: Math.max(0, (Date.now() - origin.serviceStartedAt) / 1000),
    processStartedAt,
    listeners: listenersOf(registry, listeners),
    held: registry.entries.filter(entry => entry.role === 'named').map(entry => entry.name),
    connections: connectionsOf(listeners),
    moves: moves.counts.report,
    draining: older.reports,
    closed: older.closed,
    sections: log.digests(),
    state: {
      sequence,
      digest: log.position.digest,
      entries,
      bytes,
      segments,
      takenOver,
      file: file?.status() ?? null,
    },
    unfit: runtime.shutdown.cannotServe.report,
    openFds: fdLimits().open,
    rssBytes: residentBytes(),
    lastFailure: runtime.upgrades.lastFailure,
    upgrade: runtime.upgrades.report,
    blockedBy: hosting.blockedBy,
    incumbent: runtime.joined.facts?.daemon ? null : incumbentOf(runtime),
    takeover: runtime.timing.steps,
    handoffs: hosting.holder?.timeline.records ?? [],
    applicationErrors: application?.failures() ?? 0,
    probationSeconds:
      older.reports.find(({ standbySeconds }) => standbySeconds !== undefined)?.standbySeconds ?? null,
    details: runtime.replacedPid === null ? detailsOf(application) : { replaces: runtime.replacedPid },
    droppedOutput: inheritedOutput()?.dropped ?? 0,
    keptBy: runtime.shutdown.over ? activeResources() : null,
  }
}

/** Returns the report of a process that stands by, drains or is being replaced, for the process that serves. */
export function describeDrain(runtime: MemberRuntime): DrainReport {
  const { hosting, leadership, listeners, machine, moves, origin, shutdown, state } = runtime
  const { phase } = machine
  // Reading the position reads new records, so that a standby notices early if it cannot read them.
  if (phase === 'standby') void state.log.position
  const unfit = shutdown.cannotServe.report
  const leftMs = hosting.holder?.probationLeftMs ?? null
  const { requestedBy } = shutdown
  const connections = connectionsOf(listeners.all)
  return {
    pid: process.pid,
    generation: origin.generation,
    phase,
    ...(leftMs !== null && { standbySeconds: leftMs / 1000 }),
    ...(requestedBy !== null && { leaves: requestedBy }),
    connections,
    // Each report costs a look at each of them.
    ...(phase === 'leaving' && connections <= MOST_DESCRIBED && { kinds: kindsOf(listeners.all) }),
    moves: moves.counts.report,
    quiescedMs: leadership.quiescedMs,
    ...(unfit && { unfit }),
  }
}

/** Returns the values of metrics that are not counted. */
export function gaugesOf(runtime: MemberRuntime): Series[] {
  const { listeners, older, origin, view } = runtime
  const { bytes, entries, sequence, waiting } = view.stats()
  const one = (metric: MetricName, value: number, ...labels: string[]) => ({
    metric,
    labels,
    numbers: [value],
  })
  const { open } = fdLimits()
  return [
    one('generation', origin.generation),
    ...listeners.all.map(({ name, connections }) => one('connections', connections, name)),
    ...(open === null ? [] : [one('descriptors', open)]),
    one('older', older.reports.length),
    one('stateRecords', sequence),
    one('stateEntries', entries),
    one('stateBytes', bytes),
    one('stateWaiting', waiting),
  ]
}

/** The most connections of which a report names the kinds. */
const MOST_DESCRIBED = 1_000

function kindsOf(listeners: readonly Listener[]): Record<string, number> {
  const sum = new CountByKey<string>()
  for (const listener of listeners)
    for (const [kind, count] of Object.entries(listener.kinds())) sum.add(kind, count)
  return Object.fromEntries(sum)
}

function connectionsOf(listeners: readonly Listener[]): number {
  return listeners.reduce((sum, listener) => sum + listener.connections, 0)
}

/** Returns the pid of the previous version, or of the daemon, while it can still take over again: until `ready()` resolves, and in probation. */
export function incumbentOf({ hosting, joined }: Pick<MemberRuntime, 'hosting' | 'joined'>): number | null {
  return hosting.standsBy || hosting.isPreceded ? (joined.facts?.pid ?? null) : null
}

/** Returns the application's own facts. Facts that JSON cannot express must not keep an operator from the status, and so from an upgrade. */
function detailsOf(application: MemberRuntime['application']): Record<string, unknown> {
  try {
    const details = application?.details() ?? {}
    if (isPromise(details)) throw new TypeError('describe() got a promise: its function must answer at once')
    JSON.stringify(details)
    return details
  } catch (error) {
    return { error: String(error) }
  }
}

function listenersOf(
  { entries, guard }: Registry,
  listeners: readonly Listener[],
): StatusReport['listeners'] {
  const sockets = entries.filter(entry => entry.role === 'listener')
  const identities = inspect(sockets.map(entry => entry.fd))
  // Reversed, so that an open listener replaces a closed one of the same name that still has connections.
  const byName = new Map([...listeners].reverse().map(listener => [listener.name, listener]))
  const byFurther = new Map(
    listeners.flatMap(listener => [...listener.further].map(entry => [entry, listener] as const)),
  )
  return sockets.map(({ fd, name, spec }, i) => {
    const identity = identities[i]!
    const listener = byName.get(name)
    const acceptor = listener ?? byFurther.get(name)
    const fault = guard?.faultOf(fd) ?? null
    return {
      name,
      address: listenerAddress(identity, spec),
      scheme: acceptor?.scheme ?? null,
      inode: identity.ino,
      cookie: identity.cookie ?? null,
      accepting: fault === null && (acceptor?.accepting ?? false),
      fault,
      connections: listener?.connections ?? 0,
      kinds: listener?.kinds() ?? {},
    }
  })
}
