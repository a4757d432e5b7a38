import type { Logger } from '../../base/logger.js'
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
import { withDeadline } from '../../wire/pending.js'

/** The clocks of the file system and of this process may differ by this. */
const CLOCKS_MS = 1_000

export interface KeptState {
  readonly service: string
  /** The state file of the members. */
  readonly path: string
  /** When the last one died, milliseconds since 1970. */
  readonly diedAt: number
  readonly segmentSet: SegmentSet
  readonly logger: Logger
  readonly timeoutMs: number
}

/**
 * Writes what a daemon alone holds of a service's state to the file that its members keep it in: it has every acknowledged
 * change, the file perhaps not the last ones before the member was killed. Never rejects: what came of it is logged.
 */
export async function keepState({
  service,
  path,
  diedAt,
  segmentSet,
  logger,
  timeoutMs,
}: KeptState): Promise<void> {
  const log = new StateLog({ logger })
  try {
    refuseOthers(path, diedAt)
    for (const segment of segmentSet.all) {
      // The writer of this segment is dead.
      segment.sealForDead()
      await log.adopt(segment.dup())
    }
    const file = new StateFile(stateFileSettings({ path, sync: 'always' }, service), log, logger, () => true)
    file.serve()
    try {
      await withDeadline(file.flush(), timeoutMs, { what: 'the state in its file' })
      logger.info({ service, path, sequence: file.status().sequence }, 'the state is in its file')
    } finally {
      file.stop()
    }
  } catch (error) {
    logger.error({ err: error, service, path }, 'the state that this daemon alone holds is not in its file')
  } finally {
    log.close()
  }
}

/** Throws ERR_FDB_STATE_FILE when a process goes on with the file, or has: what is here is older then. */
function refuseOthers(path: string, diedAt: number): void {
  using fd = openStateFile(path)
  if (fd === null) return
  const refuse = (why: string) =>
    new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} ${why}: it is left as it is`)
  if (!isStateFile(fd)) throw refuse('is no state file')
  if (!tryLock(fd)) throw refuse('is written by another process')
  const { mtimeMs } = statOf(fd)
  if (mtimeMs > diedAt + CLOCKS_MS)
    throw refuse(
      `was written at ${new Date(mtimeMs).toISOString()}, after the last member of this daemon had ended`,
    )
}

/** The part of a service that only the daemon has: when it ends, clients are refused and the state is gone. */
export interface HeldAlone {
  /** Empty: of no service, but put by operators (`fd-broker fd`). */
  readonly service: string
  /** Name and address. */
  readonly listeners: readonly string[]
  /** Names of other descriptors. */
  readonly held: readonly string[]
  /** Bytes of the log; acknowledged changes that a state file need not have yet. */
  readonly stateBytes: number
  /** The members' file, to which the state is written before it is dropped; null: they have told none, and it is lost. */
  readonly stateFile: string | null
}

/** Null: a living process that serves, is to serve or stands by has it all too; or there is nothing. */
export function heldAlone(known: {
  service: string
  machine: HolderState
  peer: (id: number) => Peer | undefined
  registry: Registry
  segmentSet: SegmentSet
  stateFile: string
}): HeldAlone | null {
  const { service, machine, peer, registry, segmentSet } = known
  const stateFile = known.stateFile === '' ? null : known.stateFile
  const { owner, joiner, standby, phase } = machine
  // The members that a restarted daemon waits for have what the service has; the daemon has nothing yet.
  if (phase === 'rebuilding' || [owner, joiner, standby].some(id => lives(peer(id)))) return null
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

/** The member that can come back in place of the serving one, and can be told to. */
export function standbyOf(
  { phase, standby, unfit }: HolderState,
  peer: (id: number) => Peer | undefined,
): Peer | undefined {
  const other = phase === 'probation' && !unfit.includes(standby) ? peer(standby) : undefined
  return other?.link.open ? other : undefined
}

/** Whether the peer lives: its death may not have been told yet. */
function lives(peer: Peer | undefined): boolean {
  return peer !== undefined && (peer.pidfd === null || !hasEnded(peer.pidfd))
}
