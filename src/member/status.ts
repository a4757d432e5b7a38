import type { Entry } from '../holder/registry.js'
import { inspect } from '../kernel/index.js'
import { formatAddress } from '../listeners/index.js'
import type { StatusReport } from '../operator/status-report.js'
import { fdLimits, residentBytes } from '../os/limits.js'
import type { StateLog } from '../state/state-log.js'
import { inheritedOutput } from '../versions/successor-output.js'
import type { ControlSocket } from './control-socket.js'
import type { Hosting } from './hosting.js'
import type { JoinedHolder } from './joined-holder.js'
import type { Listener } from './listener.js'
import type { Moves } from './moves.js'
import type { OwnState } from './own-state.js'
import type { Shared } from './shared.js'
import { whatKeeps } from './shutdown.js'
import type { Upgrades } from './upgrades.js'

const processStartedAt = new Date(Date.now() - process.uptime() * 1000).toISOString()

/** The parts that know something of it. */
export interface DescribedDeps extends Shared {
  readonly application: { details(): Record<string, unknown>; failures(): number } | null
  readonly controlSocket: ControlSocket
  readonly hosting: Hosting
  readonly joined: JoinedHolder
  readonly moves: Moves
  readonly state: OwnState
  /** The state as the application sees it. */
  readonly view: StateLog
  readonly upgrades: Upgrades
}

/** Puts together the status of this process. */
export function describe(deps: DescribedDeps): StatusReport {
  const { application, controlSocket, hosting, joined, listeners, machine, moves, registry, settings } = deps
  const { file, takenOver } = deps.state
  const log = deps.view
  const { member } = machine
  const { sequence, entries, bytes, segments } = log.stats()
  return {
    service: settings.service,
    follows: settings.follow,
    control: settings.control,
    hosting: settings.control === null ? 'none' : member.scope === 'member' ? 'daemon' : 'embedded',
    pid: process.pid,
    generation: deps.generation,
    epoch: member.epoch,
    role: member.phase,
    phase: machine.holder?.phase ?? (joined.holder === null ? 'idle' : 'probation'),
    serviceStartedAt: new Date(deps.serviceStartedAt).toISOString(),
    uptimeSeconds: Math.max(0, (Date.now() - deps.serviceStartedAt) / 1000),
    processStartedAt,
    listeners: listenersOf(registry.entries, listeners),
    held: registry.entries.filter(entry => entry.role === 'named').map(entry => entry.name),
    connections: listeners.reduce((sum, listener) => sum + listener.connections, 0),
    moves: moves.counts.report,
    draining: controlSocket.older,
    closed: controlSocket.closedByOlder,
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
    unfit: deps.unfitness.report,
    openFds: fdLimits().open,
    rssBytes: residentBytes(),
    lastFailure: deps.upgrades.lastFailure,
    blockedBy: hosting.blockedBy,
    incumbent: incumbentOf(deps),
    takeover: deps.timing.steps,
    handoffs: hosting.holder?.timeline.records ?? [],
    applicationErrors: application?.failures() ?? 0,
    probationSeconds:
      controlSocket.older.find(({ standbySeconds }) => standbySeconds !== undefined)?.standbySeconds ?? null,
    details: detailsOf(application),
    droppedOutput: inheritedOutput()?.dropped ?? 0,
    keptBy: deps.shutdown.over ? whatKeeps() : null,
  }
}

/** The application's own mistake is no reason to have no status. */
/** Pid of the previous version while it can still take over again: it serves until `ready()` resolves, and stands by in probation. */
export function incumbentOf({ hosting, joined }: Pick<DescribedDeps, 'hosting' | 'joined'>): number | null {
  return hosting.standsBy ? (joined.facts?.pid ?? null) : null
}

function detailsOf(application: DescribedDeps['application']): Record<string, unknown> {
  try {
    return application?.details() ?? {}
  } catch (error) {
    return { error: String(error) }
  }
}

/** The registry knows which sockets there are, the listeners who accepts on them. */
function listenersOf(entries: readonly Entry[], listeners: readonly Listener[]): StatusReport['listeners'] {
  const sockets = entries.filter(entry => entry.role === 'listener')
  const identities = inspect(sockets.map(entry => entry.fd))
  // A listener that moved may still have connections at its old address: the newer one counts.
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
