import type { HolderState } from '../../handoff/holder-machine.js'
import type { Holder } from '../../holder/holder.js'
import type { Entry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { inspect } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import type { DrainReport, Failure } from '../../operator/status-report.js'

/** A daemon's facts of one service. */
export interface KnownService {
  readonly name: string
  readonly generation: number
  readonly startedAt: number
  readonly machine: HolderState
  /** The descriptors as the member that serves sees them. */
  readonly entries: readonly Entry[]
  readonly segmentSet: SegmentSet
  readonly holder: Pick<Holder, 'peer' | 'peers' | 'probationLeftMs' | 'timeline'>
  /** Processes that have retired and live on. */
  readonly retired: readonly DrainReport[]
  /** Pids that a restarted daemon waits for. */
  readonly missing: readonly number[]
  /** The status of the serving member; null: it has not answered. */
  readonly answer: Record<string, unknown> | null
}

/** A service for `status`: in the words of the member that serves, if there are any, and by what its daemon knows better. */
export function describeService(known: KnownService): object {
  const { machine, segmentSet, startedAt, answer } = known
  const { holder } = known
  const { peers, timeline } = holder
  const owner = holder.peer(machine.owner)
  const identities = inspect(known.entries.map(entry => entry.fd))
  const listeners = known.entries
    .map((entry, i) => ({
      name: entry.name,
      role: entry.role,
      address: formatAddress(identities[i]!),
      inode: identities[i]!.ino,
      cookie: identities[i]!.cookie ?? null,
    }))
    .filter(entry => entry.role === 'listener')
  return {
    ...answer,
    service: known.name,
    hosting: 'daemon',
    generation: owner?.generation ?? known.generation,
    pid: owner?.pid ?? null,
    epoch: machine.epoch,
    phase: machine.phase,
    serviceStartedAt: new Date(startedAt).toISOString(),
    uptimeSeconds: Math.max(0, (Date.now() - startedAt) / 1000),
    listeners: answer === null ? listeners : merged(listeners, answer),
    draining: [
      ...peers
        .filter(({ id, report }) => id !== machine.owner && id !== machine.joiner && report !== null)
        .map(({ report }) => report),
      ...known.retired,
    ],
    held: known.entries.filter(entry => entry.role === 'named').map(entry => entry.name),
    segments: segmentSet.all.length,
    logBytes: segmentSet.all.reduce((sum, segment) => sum + segment.size(), 0),
    probationSeconds: holder.probationLeftMs === null ? null : holder.probationLeftMs / 1000,
    lastFailure: newer(timeline.lastFailure, answer?.lastFailure),
    blockedBy: [...machine.bound.map(id => holder.peer(id)?.pid ?? 0), ...known.missing],
    handoffs: timeline.records,
  }
}

/** The member knows how the process of a successor ended, the daemon knows the handoff. */
const OF_THE_PROCESS: ReadonlySet<unknown> = new Set([
  'ERR_FDB_SUCCESSOR_EXITED',
  'ERR_FDB_SUCCESSOR_LOST',
  'ERR_FDB_SUCCESSOR_DIED',
])

function newer(own: Failure | null, told: unknown): unknown {
  const { at, code } = (told ?? {}) as Partial<Failure>
  return OF_THE_PROCESS.has(code) && at !== undefined && at > (own?.at ?? 0) ? told : own
}

/** The daemon knows which sockets there are; the member knows who accepts on them. */
function merged<T extends { name: string }>(own: readonly T[], answer: Record<string, unknown>): object[] {
  const listeners = Array.isArray(answer.listeners) ? (answer.listeners as (T | null)[]) : []
  const theirs = new Map(listeners.map(listener => [listener?.name, listener]))
  return own.map(listener => ({ ...theirs.get(listener.name), ...listener }))
}
