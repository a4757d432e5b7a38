import type { Cluster } from 'node:cluster'
import { wrongOption } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import { requireAddon } from '../kernel/index.js'
import { reportMissing } from '../node/probe.js'
import { loadForListen } from '../node/server-connections.js'
import { DAEMON_ITSELF } from '../operator/service-name.js'
import { connectUnix } from '../os/connect.js'
import { acquireControl, type FirstControl, releaseControl } from '../os/control-path.js'
import { makeRoomForDescriptors } from '../os/limits.js'
import { ServiceManager } from '../os/service-manager/service-manager.js'
import { peerLeft } from '../wire/link.js'
import type { MemberDriver } from './driver.js'
import { recoverFromFdStore } from './fd-store-recovery.js'
import { HolderLink } from './holder-link.js'
import { type Member, memberOf } from './member.js'
import { type JoinOptions, type Settings, settle } from './options.js'
import { memberJoined, memberJoins } from './process-member.js'
import { type RecoveredDescriptors, startFirst, startFromRecovered, startNext } from './start.js'

/** The incumbent may be replaced, or die, between our connecting and its Welcome: then there is another, or we are the first. */
const RETRY_MS = 20

/**
 * Takes this process's place in a service: the first, or the next version of the one that serves.
 *
 * When it resolves for a next version, the incumbent's listeners and state are here and it still serves. Then ask for sections and
 * listeners, attach servers, and call {@link Member.ready}: that is the commit.
 *
 * Rejects without any change: ERR_FDB_OPTION (also for an unknown option), ERR_FDB_PATH_TOO_LONG, ERR_FDB_BUSY (retryable: another is
 * joining), ERR_FDB_SERVICE, ERR_FDB_VERSION, ERR_FDB_DENIED, ERR_FDB_FOREIGN or ERR_FDB_NOT_FD_BROKER (another program's socket),
 * ERR_FDB_FDS_TRUNCATED (RLIMIT_NOFILE), ERR_FDB_FD_MISMATCH, ERR_FDB_STATE_…, ERR_FDB_DEADLINE.
 */
export async function join(options: JoinOptions): Promise<Member> {
  const settings = settle(options)
  requireAddon()
  if (settings.service === DAEMON_ITSELF)
    throw wrongOption('service', DAEMON_ITSELF, 'another name: this is a daemon’s own')
  settings.signal?.throwIfAborted()
  if (isClusterWorker()) {
    throw new FdbError(
      'ERR_FDB_CLUSTER_WORKER',
      'in a worker of node:cluster listen({ fd }) means the primary’s descriptors: call join() in the primary, or run without cluster',
    )
  }
  await memberJoins(error =>
    settings.logger.error({ err: error }, 'a stop of runOnce() threw before this process joined'),
  )
  const place = findPlace(settings)
  void whileOthersThink(settings)
  const member = memberOf(await place)
  memberJoined(member)
  return member
}

/** While the incumbent is thinking about the Hello there is time for what is needed soon. */
async function whileOthersThink({ logger }: Settings): Promise<void> {
  await reportMissing(logger, missing => logger.warn({ err: missing }, missing.message))
  loadForListen()
}

/** A process without a channel to a parent is no worker, and need not load `node:cluster`. */
function isClusterWorker(): boolean {
  if (process.send === undefined) return false
  const cluster: unknown = process.getBuiltinModule('node:cluster')
  return (cluster as Cluster).isWorker
}

/** Takes a place for settled options: those of {@link join}, or a daemon's. */
export async function findPlace(settings: Settings): Promise<MemberDriver> {
  const { control, reception, hosting, signal, timeout, service, versions } = settings
  if (control === null) return startFirst(settings, null)
  const legacy = settings.systemd === 'auto' && hosting === 'embedded' ? keptFrom(settings, control) : null
  if (legacy !== null) return await goOn(settings, legacy)
  const until = performance.now() + timeout
  for (;;) {
    const left = Math.max(1, until - performance.now())
    try {
      const place =
        hosting === 'daemon'
          ? ({
              role: 'next',
              channel: await connectUnix(control, { timeoutMs: left, signal, as: 'member' }),
            } as const)
          : await acquireControl(control, { timeoutMs: left, signal, passed: reception?.passed })
      if (place.role === 'first') return await beFirst(settings, place)
      if (reception !== null && !reception.takesOver) {
        place.channel.close()
        throw taken(control, 'end it, or give this daemon another control path')
      }
      const holderLink = await HolderLink.greet(
        place.channel,
        {
          service,
          intent: 'join',
          versions,
          times: settings.wantedTimes,
          stateFile: settings.stateFile?.path ?? '',
        },
        { timeoutMs: left, signal },
      )
      if (hosting === 'daemon' && !holderLink.facts.daemon) {
        holderLink.close()
        throw new FdbError(
          'ERR_FDB_NOT_A_DAEMON',
          `process ${holderLink.facts.pid} on ${control} holds its sockets itself and is no daemon: start fd-broker serve on another path, or join with hosting: 'embedded'`,
        )
      }
      const driver = await startNext(settings, holderLink, Math.max(1, until - performance.now()))
      // The incumbent has it too.
      reception?.passed?.close()
      return driver
    } catch (error) {
      if (reception !== null && FdbError.is(error) && error.code === 'ERR_FDB_SERVICE')
        throw taken(control, 'it serves itself: give this daemon another control path')
      if (!mayPass(error, hosting) || performance.now() + RETRY_MS >= until || signal?.aborted) throw error
      await new Promise(resolve => setTimeout(resolve, RETRY_MS))
    }
  }
}

function taken(control: string, remedy: string): FdbError {
  return new FdbError('ERR_FDB_CONTROL_TAKEN', `another process holds ${control}: ${remedy}`)
}

function keptFrom({ service, logger }: Settings, control: string): RecoveredDescriptors | null {
  const store = ServiceManager.find(logger)?.storeFor(service)
  return recoverFromFdStore({ service, control, logger, discard: name => store?.drop(name) })
}

/** Goes on with the descriptors that a dead process has left with the service manager. */
async function goOn(settings: Settings, legacy: RecoveredDescriptors): Promise<MemberDriver> {
  makeRoomForDescriptors()
  const { control, logger } = settings
  const { generation, entries, segments } = legacy
  const kept = { generation, entries: entries.length, segments: segments.length }
  logger.info(
    { control, ...kept },
    'goes on with what the service manager has kept of a process that has ended',
  )
  const driver = await startFromRecovered(settings, legacy)
  driver.runtime.state.file?.prepare()
  return driver
}

async function beFirst(settings: Settings, place: FirstControl): Promise<MemberDriver> {
  try {
    return await startFirst(settings, place)
  } catch (error) {
    // The state file may not be read, say: who waits for us here is turned away, and may be the first.
    releaseControl(place, settings.logger)
    throw error
  }
}

/** The one we met has just gone; or the daemon is not there yet. */
function mayPass(error: unknown, hosting: 'embedded' | 'daemon'): boolean {
  if (peerLeft(error)) return true
  return hosting === 'daemon' && FdbError.is(error) && error.code === 'ERR_FDB_NO_HOLDER'
}
