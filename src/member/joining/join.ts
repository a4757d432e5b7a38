import type { Cluster } from 'node:cluster'
import { Backoff } from '../../base/backoff.js'
import { startThreadPool } from '../../base/thread-pool.js'
import { wrongOption } from '../../checks/place.js'
import { FdbError } from '../../errors.js'
import { requireAddon } from '../../kernel/index.js'
import { reportMissing } from '../../node/missing-internals.js'
import { loadForListen } from '../../node/server-connections.js'
import { DAEMON_ITSELF } from '../../operator/service-name.js'
import { connectUnix } from '../../os/connect.js'
import { acquireControl, type FirstControl, releaseControl } from '../../os/control-path.js'
import { makeRoomForDescriptors, outOfDescriptors } from '../../os/limits.js'
import { ServiceManager } from '../../os/service-manager/service-manager.js'
import { peerLeft } from '../../wire/link.js'
import type { MemberDriver } from '../driver.js'
import { HolderLink } from '../hosting/holder-link.js'
import { isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import { type Member, memberOf } from '../member.js'
import { type JoinOptions, resolveOptions, type Settings } from '../options/options.js'
import { closeStored, recoverFromFdStore } from './fd-store-recovery.js'
import { memberJoined, memberJoins } from './process-member.js'
import { type RecoveredDescriptors, startFirst, startFromRecovered, startNext } from './start.js'

/** The first delay before joining is retried, if the incumbent has just left or the daemon has not started yet. */
const JOIN_RETRY_MS = 20
/** If another process keeps a dead incumbent's socket open, each attempt fills its queue. */
const LONGEST_RETRY_MS = 100

/**
 * Joins a service: as its first process, or as the next version of the process that serves.
 *
 * For a next version it resolves when this process has the incumbent's listeners and state; the incumbent still serves. Then open sections
 * and listeners, attach servers, and call {@link Member.ready}, which takes over.
 *
 * If it rejects, nothing has changed: ERR_FDB_OPTION (also for an unknown option), ERR_FDB_PATH_TOO_LONG, ERR_FDB_BUSY (retryable: another process
 * is joining), ERR_FDB_SERVICE, ERR_FDB_VERSION, ERR_FDB_DENIED, ERR_FDB_FOREIGN or ERR_FDB_NOT_FD_BROKER (another program's socket),
 * ERR_FDB_FDS_TRUNCATED (RLIMIT_NOFILE), ERR_FDB_FD_MISMATCH, ERR_FDB_STATE_…, ERR_FDB_DEADLINE.
 */
export async function join(options: JoinOptions): Promise<Member> {
  const settings = resolveOptions(options)
  requireAddon()
  startThreadPool()
  if (settings.service === DAEMON_ITSELF)
    throw wrongOption('service', DAEMON_ITSELF, 'another name: this one is reserved for daemons')
  settings.signal?.throwIfAborted()
  if (isClusterWorker()) {
    throw new FdbError(
      'ERR_FDB_CLUSTER_WORKER',
      'in a worker of node:cluster, listen({ fd }) uses the descriptors of the primary: call join() in the primary, or run without cluster',
    )
  }
  await memberJoins(error =>
    settings.logger.error({ err: error }, 'work of runOnce() threw when it was stopped before join()'),
  )
  const driver = startMember(settings)
  void preloadWhileWaiting(settings)
  const member = memberOf(await driver)
  memberJoined(member)
  return member
}

/**
 * Loads a module for listen(), and tests Node's internals if fd-broker was not tested on this Node, while the incumbent handles the Hello: both take
 * milliseconds.
 */
async function preloadWhileWaiting({ logger }: Settings): Promise<void> {
  await reportMissing(logger, missing => logger.warn({ err: missing }, missing.message))
  loadForListen()
}

/** Loads `node:cluster` only if the process has a channel to a parent, as each worker does. */
function isClusterWorker(): boolean {
  if (process.send === undefined) return false
  const cluster: unknown = process.getBuiltinModule('node:cluster')
  return (cluster as Cluster).isWorker
}

/** Joins with checked settings, which {@link join} or a daemon has made. */
export async function startMember(settings: Settings): Promise<MemberDriver> {
  const { control } = settings
  try {
    return control === null ? await startFirst(settings, null) : await joinAt(settings, control)
  } catch (error) {
    throw isDescriptorShortage(error) ? outOfDescriptors('this process cannot start', error) : error
  } finally {
    // If they are not needed, the process that serves has them.
    if (control !== null && mayRecover(settings)) closeStored(settings.service)
  }
}

async function joinAt(settings: Settings, control: string): Promise<MemberDriver> {
  const { reception, hosting, signal, timeout } = settings
  const until = performance.now() + timeout
  const backoff = new Backoff({ firstMs: JOIN_RETRY_MS, longestMs: LONGEST_RETRY_MS })
  for (let isFresh = true; ; isFresh = false) {
    const remainingMs = Math.max(1, until - performance.now())
    // Again, because the process that served may have ended meanwhile.
    const recovered = mayRecover(settings) ? recover(settings, control, isFresh) : null
    if (recovered !== null) return await startFromFdStore(settings, recovered)
    try {
      const controlSocket =
        hosting === 'daemon'
          ? ({
              role: 'next',
              channel: await connectUnix(control, { timeoutMs: remainingMs, signal, as: 'member' }),
            } as const)
          : await acquireControl(control, { timeoutMs: remainingMs, signal, passed: reception?.passed })
      if (controlSocket.role === 'first') return await startAsFirst(settings, controlSocket)
      if (reception !== null && !reception.takesOver) {
        controlSocket.channel.close()
        throw controlTaken(control, 'end it, or give this daemon another control path')
      }
      const holderLink = await HolderLink.greet(controlSocket.channel, settings, {
        timeoutMs: remainingMs,
        signal,
      })
      if (hosting === 'daemon' && !holderLink.facts.daemon) {
        const error = new FdbError(
          'ERR_FDB_NOT_A_DAEMON',
          `process ${holderLink.facts.pid} on ${control} holds its sockets itself and is no daemon: start fd-broker serve on another path, or join with hosting: 'embedded'`,
        )
        holderLink.decline(error)
        throw error
      }
      if (hosting === 'embedded' && holderLink.facts.daemon) {
        const error = controlTaken(
          control,
          `process ${holderLink.facts.pid} is a daemon or the main process of workers; stop it first, use another control path, or join with hosting: 'daemon'`,
        )
        holderLink.decline(error)
        throw error
      }
      const driver = await startNext(settings, holderLink, Math.max(1, until - performance.now()))
      // The incumbent has handed over a descriptor of the same socket.
      reception?.passed?.close()
      return driver
    } catch (error) {
      if (reception !== null && FdbError.is(error) && error.code === 'ERR_FDB_SERVICE')
        throw controlTaken(
          control,
          'that process serves an application itself, without workers or a daemon: stop it first, or use another control path',
        )
      const ms = backoff.next()
      if (!mayRetry(error, hosting) || performance.now() + ms >= until || signal?.aborted) throw error
      await new Promise(resolve => setTimeout(resolve, ms))
    }
  }
}

function controlTaken(control: string, remedy: string): FdbError {
  return new FdbError('ERR_FDB_CONTROL_TAKEN', `another process holds ${control}: ${remedy}`)
}

function mayRecover({ hosting, systemd }: Settings): boolean {
  return systemd === 'auto' && hosting === 'embedded'
}

function recover(
  { service, logger }: Settings,
  control: string,
  isFresh: boolean,
): RecoveredDescriptors | null {
  const store = ServiceManager.find(logger)?.storeFor(service)
  return recoverFromFdStore({ service, control, logger, isFresh, discard: name => store?.drop(name) })
}

async function startFromFdStore(settings: Settings, recovered: RecoveredDescriptors): Promise<MemberDriver> {
  makeRoomForDescriptors()
  const { control, logger } = settings
  const { generation, entries, segments } = recovered
  const facts = { generation, entries: entries.length, segments: segments.length }
  logger.info(
    { control, ...facts },
    'continues with the descriptors of an ended process from the FD store of the service manager',
  )
  const driver = await startFromRecovered(settings, recovered)
  void driver.runtime.state.file?.prepare()
  return driver
}

async function startAsFirst(settings: Settings, control: FirstControl): Promise<MemberDriver> {
  try {
    return await startFirst(settings, control)
  } catch (error) {
    // For example, the state file cannot be read. A process that waits for the control path may try next.
    releaseControl(control, settings.logger)
    throw error
  }
}

function mayRetry(error: unknown, hosting: 'embedded' | 'daemon'): boolean {
  if (peerLeft(error)) return true
  return hosting === 'daemon' && FdbError.is(error) && error.code === 'ERR_FDB_NO_HOLDER'
}
