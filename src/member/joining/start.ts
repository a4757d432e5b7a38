import { FdbError } from '../../errors.js'
import type { Entry } from '../../holder/entry.js'
import type { NativeError, OwnedFd } from '../../kernel/index.js'
import { type FirstControl, NO_ENTRY } from '../../os/control-path.js'
import { makeRoomForDescriptors, outOfDescriptors } from '../../os/limits.js'
import type { Segment } from '../../state/segment.js'
import { MemberDriver } from '../driver.js'
import { abortedJoin, type HolderLink } from '../hosting/holder-link.js'
import { isDescriptorShortage } from '../lifecycle/cannot-serve.js'
import type { Settings } from '../options/options.js'

const FIRST_EPOCH = 1

/** The descriptors of a process that has died, or that hangs and will be killed. */
export interface RecoveredDescriptors {
  readonly generation: number
  readonly serviceStartedAt: number
  readonly entries: readonly Entry[]
  readonly segments: readonly Segment[]
  readonly listener: OwnedFd
  readonly lock: OwnedFd
  /** Null if there is no descriptor of the reservation. This process then makes a new reservation. */
  readonly reservation: OwnedFd | null
}

/** Starts the first process of a service. `control` is null with the option `control: false`. */
export async function startFirst(
  settings: Settings,
  control: Omit<FirstControl, 'role' | 'path'> | null,
): Promise<MemberDriver> {
  const driver = new MemberDriver(settings, {
    generation: 1,
    serviceStartedAt: Date.now(),
    scope: 'holder',
  })
  const { controlSocket, machine, segmentSet, state } = driver.runtime
  machine.assume({ holds: true, link: 'none', epoch: FIRST_EPOCH, source: 0, wayBack: FIRST_EPOCH })
  try {
    segmentSet.make([FIRST_EPOCH])
    await state.file?.claim()
    // The first process may write before ready(), because no other process can.
    await state.loader.startFirst(FIRST_EPOCH, settings.stateFile, state.file)
    await state.file?.prepare()
    warnUnsealed(driver)
    if (control !== null) {
      const { listener, lock, reservation, entry } = control
      controlSocket.adopt({ listener, lock, reservation, entry })
      controlSocket.open()
    }
  } catch (error) {
    state.file?.stop()
    state.log.close()
    segmentSet.close()
    throw error
  }
  return driver
}

/** Starts this process as the successor of a dead one. Owns the recovered descriptors, also if it rejects. */
export async function startFromRecovered(
  settings: Settings,
  recovered: RecoveredDescriptors,
): Promise<MemberDriver> {
  const { generation, serviceStartedAt, entries, segments, listener, lock, reservation } = recovered
  const driver = new MemberDriver(settings, { generation, serviceStartedAt, scope: 'holder' })
  const { controlSocket, machine, registry, segmentSet, state } = driver.runtime
  for (const segment of segments.filter(({ kind }) => kind === 'epoch')) segmentSet.put(segment, true)
  for (const segment of segments.filter(({ kind }) => kind === 'snapshot')) segmentSet.replaceUpTo(segment)
  for (const entry of entries) {
    registry.put(entry)
    registry.wanted.add(entry.name)
  }
  const { top } = segmentSet
  machine.assume({ holds: true, link: 'none', epoch: top, source: top, wayBack: top, top })
  const passed = settings.reception?.passed ?? null
  // If the service manager has passed the control socket, this process must not remove its path.
  controlSocket.adopt({ listener, lock, reservation, ...(passed !== null && { entry: NO_ENTRY }) })
  passed?.close()
  try {
    await state.loader.read(top)
    warnUnsealed(driver)
    return driver
  } catch (error) {
    driver.end(FdbError.from(error))
    throw error
  }
}

/** Joins the holder at `link`. Resolves when this process has the descriptors and has read the state. */
export async function startNext(
  settings: Settings,
  link: HolderLink,
  timeoutMs: number,
): Promise<MemberDriver> {
  const { generation, serviceStartedAt, daemon } = link.facts
  const scope = daemon ? 'member' : 'holder'
  const driver = new MemberDriver(settings, { generation, serviceStartedAt, scope })
  const { followed, joined, machine, readiness, state, timing } = driver.runtime
  const { signal } = settings
  const aborted = () => driver.refuse(abortedJoin())
  signal?.addEventListener('abort', aborted, { once: true })
  readiness.limit(timeoutMs + link.facts.waitMs)
  try {
    joined.attach(link)
    makeRoomForDescriptors()
    if (signal?.aborted) aborted()
    const inView = followed?.open(timeoutMs)
    inView?.catch(() => {})
    await readiness.offer.answer
    await state.loader.read(machine.member.source)
    if (driver.first) await state.file?.claim()
    // The first process may write before ready(), because no other process can.
    if (driver.first) await state.loader.startFirst(machine.member.epoch, settings.stateFile, state.file)
    await inView
    void state.file?.prepare()
    timing.record('read')
    warnUnsealed(driver)
    if (machine.phase === 'gone') throw driver.leaveReason()
  } catch (error) {
    const failure = isDescriptorShortage(error) ? outOfDescriptors('this process cannot join', error) : error
    // The incumbent gets the error and continues to serve; this process releases everything.
    driver.refuse(FdbError.from(failure))
    await machine.settled()
    throw signal?.aborted ? signal.reason : failure
  } finally {
    signal?.removeEventListener('abort', aborted)
  }
  return driver
}

/** Warns the operator if segments cannot be sealed, because then there is no automatic rollback. */
function warnUnsealed({ runtime: { settings, segmentSet } }: MemberDriver): void {
  if (segmentSet.rules.arbiter || process.platform !== 'linux') return
  settings.logger.warn(
    {},
    'memfd_create is missing or refused (ENOSYS, EPERM: a filter of system calls, seccomp): the state is in an unnamed file that cannot be sealed, so that a commit is final, without an automatic rollback, and connections do not move; allow memfd_create',
  )
}

/** Returns the segments in order of epoch. Closes incomplete snapshots; `segments` also has the segments that they merge. */
export function wholeSegments(segments: Iterable<Segment>): Segment[] {
  const whole: Segment[] = []
  for (const segment of segments) {
    if (segment.kind === 'snapshot' && !segment.sealed) segment.close()
    else whole.push(segment)
  }
  return whole.sort((a, b) => a.epoch - b.epoch)
}

/**
 * Claims the segments of a process that has ended or will be killed. Returns whether no other process has done so: the newest one decides, because
 * older ones may be left of an earlier claim. Ignores EPERM, which a read-only descriptor gives: only that process can write to such a segment.
 * Passes any other error to `refused`. No change is lost, because the segments are read after that process has ended.
 */
export function claimRecovered(segments: readonly Segment[], refused: (error: FdbError) => void): boolean {
  let isFirst = true
  for (const segment of segments) {
    try {
      if (!segment.claim() && segment === segments.at(-1)) isFirst = false
    } catch (error) {
      if (!(error instanceof FdbError)) throw error
      if ((error.cause as NativeError).code !== 'EPERM') refused(error)
    }
  }
  return isFirst
}
