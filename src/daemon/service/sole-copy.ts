import type { Logger } from '../../base/logger.js'
import { withinRunningTime } from '../../base/running-time.js'
import { FdbError } from '../../errors.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { Peer } from '../../holder/peer.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import { hasEnded, inspect, statOf, tryLock } from '../../kernel/index.js'
import { formatAddress } from '../../listeners/index.js'
import { isStateFile, openStateFile, stateFileSettings } from '../../state/file/files.js'
import { StateFile } from '../../state/file/state-file.js'
import { StateLog } from '../../state/state-log.js'
import { deadlineError } from '../../wire/pending.js'

/** Maximum difference between the clocks of the file system and of this process. */
const CLOCKS_MS = 1_000

export interface StateToKeep {
  readonly service: string
  /** The state file of the members. */
  readonly path: string
  /** When the last member died, in milliseconds since 1970. */
  readonly diedAt: number
  readonly segmentSet: SegmentSet
  readonly logger: Logger
  readonly timeoutMs: number
}

/**
 * Writes the state of a service that only the daemon holds to the members' state file. The daemon has every acknowledged change; the file may
 * lack the last ones before the member was killed. Never rejects; logs the outcome.
 */
export async function keepState({
  service,
  path,
  diedAt,
  segmentSet,
  logger,
  timeoutMs,
}: StateToKeep): Promise<void> {
  const log = new StateLog({ logger })
  try {
    refuseNewer(path, diedAt)
    for (const segment of segmentSet.all) {
      // No process may write this segment any more: all members are dead.
      segment.sealForDead()
      await log.adopt(segment.share())
    }
    const file = new StateFile(stateFileSettings({ path, sync: 'always' }, service), log, logger, () => true)
    file.serve()
    try {
      await withinRunningTime(file.flush(), timeoutMs, () =>
        deadlineError('writing the state file', timeoutMs),
      )
      logger.info({ service, path, sequence: file.status().sequence }, 'the daemon wrote the state file')
    } finally {
      file.stop()
    }
  } catch (error) {
    logger.error(
      { err: error, service, path },
      'the daemon ends and could not write the state that it alone holds to the state file: changes that the file lacks are lost',
    )
  } finally {
    log.close()
  }
}

/** Throws ERR_FDB_STATE_FILE if another process writes the file, or wrote it after `diedAt`: the file may then be newer than the daemon's state. */
function refuseNewer(path: string, diedAt: number): void {
  using fd = openStateFile(path)
  if (fd === null) return
  const refuse = (reason: string) =>
    new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} ${reason}: the daemon does not overwrite it`)
  if (!isStateFile(fd)) throw refuse('is not a state file')
  if (!tryLock(fd)) throw refuse('is written by another process')
  const { mtimeMs } = statOf(fd)
  if (mtimeMs > diedAt + CLOCKS_MS)
    throw refuse(
      `was written at ${new Date(mtimeMs).toISOString()}, after the last member at this daemon ended`,
    )
}

/** The items of a service that only the daemon has: if it ends, clients are refused and the state is lost. */
export interface SoleCopy {
  /** Empty for descriptors without a service, which operators have put (`fd-broker fd`). */
  readonly service: string
  /** Name and address of each listener. */
  readonly listeners: readonly string[]
  /** Names of other descriptors. */
  readonly held: readonly string[]
  readonly stateBytes: number
  /** The members' state file, to which the daemon writes the state before it ends; null if there is none, so that the state is lost. */
  readonly stateFile: string | null
}

/** Returns the items that only the daemon has. Returns null if there are none, or if a living process that serves, joins or stands by has them too. */
export function soleCopyOf(known: {
  service: string
  machine: HolderState
  peer: (id: number) => Peer | undefined
  registry: Registry
  segmentSet: SegmentSet
  stateFile: string
}): SoleCopy | null {
  const { service, machine, peer, registry, segmentSet } = known
  const stateFile = known.stateFile === '' ? null : known.stateFile
  const { owner, joiner, standby, phase } = machine
  // After a restart the members, for which the daemon waits, have all items; the daemon has none yet.
  if (phase === 'rebuilding' || [owner, joiner, standby].some(id => isAlive(peer(id)))) return null
  const { entries } = registry
  const identities = inspect(entries.map(({ fd }) => fd))
  const listeners = entries.flatMap(({ name, role }, i) =>
    role === 'listener' ? [`${name} ${formatAddress(identities[i]!)}`] : [],
  )
  const held = entries.filter(({ role }) => role === 'named').map(({ name }) => name)
  const stateBytes = segmentSet.all.reduce((sum, segment) => sum + segment.size() - segment.start, 0)
  return listeners.length + held.length + stateBytes > 0
    ? { service, listeners, held, stateBytes, stateFile }
    : null
}

/** Returns the standby that can take over again, if it is connected. */
export function standbyOf(
  { phase, standby, unfit }: HolderState,
  peer: (id: number) => Peer | undefined,
): Peer | undefined {
  const candidate = phase === 'probation' && !unfit.includes(standby) ? peer(standby) : undefined
  return candidate?.link.open ? candidate : undefined
}

/** Whether the peer's process lives. Checks the pidfd, because this process may not have handled the event of its death yet. */
function isAlive(peer: Peer | undefined): boolean {
  return peer !== undefined && (peer.pidfd === null || !hasEnded(peer.pidfd))
}
