import type { Entry } from '../holder/registry.js'
import type { Failure, HandoffRecord } from '../holder/timeline.js'
import { inspect } from '../kernel/index.js'
import { formatAddress } from '../listeners/index.js'
import type { MoveReport } from '../moving/counts.js'
import type { StatusReport, TakeoverStep } from '../operator/status-report.js'
import { fdLimits } from '../process/limits.js'
import type { StatePosition } from '../protocol/envelope.js'
import type { MemberState } from '../protocol/member-machine.js'
import type { StateFile } from '../state/file/state-file.js'
import type { StateLog } from '../state/state-log.js'
import type { ForcedClose } from './drain/forced-closes.js'
import type { DrainReport } from './drain/reporter.js'
import type { Listener } from './listener.js'
import type { Settings } from './options.js'
import type { UnfitReport } from './unfit.js'

export type { StatusReport } from '../operator/status-report.js'

const processStartedAt = new Date(Date.now() - process.uptime() * 1000).toISOString()

/** What a process knows of itself, put together. */
export function describe(known: {
  settings: Settings
  generation: number
  serviceStartedAt: number
  member: MemberState
  phase: string
  entries: readonly Entry[]
  listeners: readonly Listener[]
  draining: readonly DrainReport[]
  closed: readonly ForcedClose[]
  state: StateLog
  stateFile: StateFile | null
  takenOver: StatePosition | null
  moves: MoveReport
  takeover: readonly TakeoverStep[]
  lastFailure: Failure | null
  blockedBy: readonly number[]
  handoffs: readonly HandoffRecord[]
  applicationErrors: number
  unfit: UnfitReport | null
}): StatusReport {
  const { settings, member, state } = known
  const { sequence, entries, bytes, segments } = state.stats()
  return {
    service: settings.service,
    control: settings.control,
    hosting: settings.control === null ? 'none' : member.scope === 'member' ? 'daemon' : 'embedded',
    pid: process.pid,
    generation: known.generation,
    epoch: member.epoch,
    role: member.phase,
    phase: known.phase,
    serviceStartedAt: new Date(known.serviceStartedAt).toISOString(),
    uptimeSeconds: Math.max(0, (Date.now() - known.serviceStartedAt) / 1000),
    processStartedAt,
    listeners: listenersOf(known.entries, known.listeners),
    held: known.entries.filter(entry => entry.role === 'named').map(entry => entry.name),
    connections: known.listeners.reduce((sum, listener) => sum + listener.connections, 0),
    moves: known.moves,
    draining: known.draining,
    closed: known.closed,
    sections: state.digests(),
    state: {
      sequence,
      digest: state.position.digest,
      entries,
      bytes,
      segments,
      takenOver: known.takenOver,
      file: known.stateFile?.status() ?? null,
    },
    unfit: known.unfit,
    openFds: fdLimits().open,
    rssBytes: process.memoryUsage.rss(),
    lastFailure: known.lastFailure,
    blockedBy: known.blockedBy,
    takeover: known.takeover,
    handoffs: known.handoffs,
    applicationErrors: known.applicationErrors,
  }
}

/** The registry knows which sockets there are, the listeners who accepts on them. */
function listenersOf(entries: readonly Entry[], listeners: readonly Listener[]): StatusReport['listeners'] {
  const sockets = entries.filter(entry => entry.role === 'listener')
  const identities = inspect(sockets.map(entry => entry.fd))
  // One that moved may still have connections at its old address: the newer one counts.
  const byName = new Map([...listeners].reverse().map(listener => [listener.name, listener]))
  return sockets.map(({ name }, i) => {
    const identity = identities[i]!
    const listener = byName.get(name)
    return {
      name,
      address: formatAddress(identity),
      scheme: listener?.scheme ?? null,
      inode: identity.ino,
      cookie: identity.cookie ?? null,
      accepting: listener?.accepting ?? false,
      connections: listener?.connections ?? 0,
      kinds: listener?.kinds() ?? {},
    }
  })
}
