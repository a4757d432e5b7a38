import type { Logger } from '../../base/logger.js'
import { type NotedDescriptors, readDescriptorNames } from '../../holder/descriptor-names.js'
import { type Entry, parseEntry } from '../../holder/entry.js'
import { closeAll, inspectOne, namesSocket, OwnedFd, peerLives } from '../../kernel/index.js'
import { isPath } from '../../listeners/index.js'
import { listeningPid, tryConnect } from '../../os/connect.js'
import { processStat } from '../../os/main-process.js'
import { hasStoredFor, takeStoredFor } from '../../os/service-manager/passed-sockets.js'
import { Segment } from '../../state/segment.js'
import { claimRecovered, type RecoveredDescriptors, wholeSegments } from './start.js'

export interface FdStoreRecovery {
  readonly service: string
  readonly control: string
  readonly logger: Logger
  /** Removes a descriptor from the store. While the store has the lock file's descriptor, no other process can lock the file. */
  readonly discard: (name: string) => void
  /** Whether this process has just started: later the store may have more than it has passed to this process. */
  readonly isFresh: boolean
}

/**
 * Returns the descriptors that a dead process of this service has stored. Returns null if there are none or a process serves; a later call may
 * return them when that process has ended. Discards an incomplete set and returns null. Returns null too if a process has written a newer segment
 * since this one started: the service manager has that, and passes it to the next process.
 */
export function recoverFromFdStore({
  service,
  control,
  logger,
  discard,
  isFresh,
}: FdStoreRecovery): RecoveredDescriptors | null {
  if (!hasStoredFor(service) || isServed(control)) return null
  const stored = takeStoredFor(service)
  const remaining = new Set(stored.map(({ fd }) => fd))
  const take = (name: string) => {
    const fd = stored.find(each => each.name === name && remaining.has(each.fd))?.fd
    if (fd !== undefined) remaining.delete(fd)
    return fd
  }
  const entries: Entry[] = []
  try {
    const noted = newestNote(stored)
    const names = new Set(stored.map(({ name }) => name))
    const needed = ['control', 'lock', ...(noted?.segments ?? ['segments'])]
    const missing = needed.filter(name => !names.has(name))
    if (missing.length > 0 && !isFresh) return null
    if (noted === null || missing.length > 0) {
      for (const name of names) discard(name)
      logger.warn(
        { missing },
        'the FD store of the service manager lacks a part of the state: the other parts are removed, and this process starts without the stored state',
      )
      return null
    }
    const listener = take('control')
    const lock = take('lock')
    if (listener === undefined || lock === undefined) {
      closeAll([listener, lock].filter(fd => fd !== undefined))
      return null
    }
    const fdsByName = new Map<string, OwnedFd>()
    for (const noting of noted.entries) {
      const { keptAs } = noting
      // A socket may be registered under several names.
      const fd = fdsByName.get(keptAs)?.dup() ?? take(keptAs)
      if (fd === undefined) continue
      const entry = parseEntry(noting, fd)
      if (isReachable(entry)) {
        entries.push(entry)
        fdsByName.set(keptAs, fd)
      } else fd.close()
    }
    const isSegment = /^(?:epoch|snapshot)-/
    const held = stored.filter(({ name, fd }) => isSegment.test(name) && remaining.delete(fd))
    const segments = wholeSegments(Segment.openAll(held.map(({ fd }) => fd)))
    if (!isFresh && segments.findLast(({ kind }) => kind === 'epoch')?.sealed !== false) {
      closeAll([listener, lock, ...entries.map(({ fd }) => fd)])
      for (const segment of segments) segment.close()
      return null
    }
    const { generation, serviceStartedAt } = noted
    claimRecovered(segments, err =>
      logger.warn({ err }, 'the state segments of a dead process could not be sealed'),
    )
    return {
      generation: generation + 1,
      serviceStartedAt,
      entries,
      segments,
      listener,
      lock,
      reservation: take('reservation') ?? null,
    }
  } catch (error) {
    closeAll([...stored, ...entries].map(({ fd }) => fd))
    throw error
  } finally {
    closeAll(remaining)
  }
}

/** Closes the stored descriptors that {@link recoverFromFdStore} has not taken. */
export function closeStored(service: string): void {
  closeAll(takeStoredFor(service).map(({ fd }) => fd))
}

/** Returns the note of the newest generation; earlier generations may have left theirs. */
function newestNote(
  stored: readonly { readonly name: string; readonly fd: OwnedFd }[],
): NotedDescriptors | null {
  const notes = stored.filter(({ name }) => name.startsWith('note-')).map(({ fd }) => readDescriptorNames(fd))
  return notes.filter(note => note !== null).sort((a, b) => b.generation - a.generation)[0] ?? null
}

/** Whether the process that called listen() on the control socket is alive. */
function isServed(control: string): boolean {
  const channel = tryConnect(control)
  if (!(channel instanceof OwnedFd)) return false
  try {
    return peerLives(channel) ?? processStat(listeningPid(channel)) !== null
  } finally {
    channel.close()
  }
}

/** Whether clients can reach the socket. The previous process may have removed the path of a Unix socket when it ended. */
function isReachable(entry: Entry): boolean {
  const { fd } = entry
  const { family, accepting } = inspectOne(fd)
  if (family !== 'unix' || !accepting || entry.role === 'named' || !isPath(entry.spec)) return true
  return namesSocket(fd, entry.spec.path) !== false
}
