import type { Entry } from '../holder/registry.js'
import type { Failure, HandoffRecord } from '../holder/timeline.js'
import { inspect } from '../kernel/index.js'
import { formatAddress } from '../listeners/index.js'
import type { MoveReport } from '../moving/counts.js'
import { fdLimits } from '../process/limits.js'
import type { StatePosition } from '../protocol/envelope.js'
import type { MemberState } from '../protocol/member-machine.js'
import type { StateFile, StateFileStatus } from '../state/file/state-file.js'
import type { SectionDigest } from '../state/overview.js'
import type { StateLog } from '../state/state-log.js'
import type { ForcedClose } from './drain/forced-closes.js'
import type { DrainReport } from './drain/reporter.js'
import type { Listener } from './listener.js'
import type { Settings } from './options.js'
import type { TakeoverStep } from './takeover-timing.js'
import type { UnfitReport } from './unfit.js'

/** What `fd-broker status --json` prints. */
export interface StatusReport {
  readonly service: string
  readonly control: string | null
  readonly hosting: 'embedded' | 'daemon' | 'none'
  readonly pid: number
  readonly generation: number
  readonly epoch: number
  /** Of this process: `serving`, `standby` … */
  readonly role: string
  /** Of the handoff: `idle` when none is under way. */
  readonly phase: string
  readonly serviceStartedAt: string
  readonly uptimeSeconds: number
  readonly processStartedAt: string
  readonly listeners: readonly {
    readonly name: string
    readonly address: string
    /** What its clients speak: `http`, `https`, `tls`, `tcp`; null where that is not known. */
    readonly scheme: string | null
    readonly inode: string
    readonly cookie: string | null
    readonly accepting: boolean
    readonly connections: number
    /** Of those: what they are doing, as far as the listener's keepers say it. */
    readonly kinds: Readonly<Record<string, number>>
  }[]
  /** Named descriptors that are no listeners. */
  readonly held: readonly string[]
  readonly connections: number
  /** Connections that came to this process from others, or went from it to others. */
  readonly moves: MoveReport
  /** Older generations that still have connections, or stand by. */
  readonly draining: readonly DrainReport[]
  /** Connections that older generations closed because `drain.timeout` was over, as far as this process was told. */
  readonly closed: readonly ForcedClose[]
  readonly sections: readonly SectionDigest[]
  readonly state: {
    readonly sequence: number
    readonly digest: string
    readonly entries: number
    readonly bytes: number
    readonly segments: number
    /** Where both sides stood at the last commit, as this process read it; null for the first generation. */
    readonly takenOver: { readonly epoch: number; readonly sequence: number; readonly digest: string } | null
    /** Null: there is no `stateFile`. */
    readonly file: StateFileStatus | null
  }
  /** Why this process cannot write, or could not come back to serve; null: it can. */
  readonly unfit: UnfitReport | null
  readonly openFds: number | null
  readonly rssBytes: number
  readonly lastFailure: Failure | null
  /** Given the listeners once and neither gone nor proved dead: it blocks the next upgrade. */
  readonly blockedBy: readonly number[]
  /** How this process took over, in milliseconds after its Hello. */
  readonly takeover: readonly TakeoverStep[]
  /** The last handoffs in which this process was the incumbent. */
  readonly handoffs: readonly HandoffRecord[]
  /** Exceptions of the application's event listeners; the log has each. */
  readonly applicationErrors: number
}

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
