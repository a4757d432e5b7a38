import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import { inspectOne, type OwnedFd } from '../kernel/index.js'
import {
  bindControl,
  controlEntry,
  ensureFolder,
  type FirstControl,
  type PathEntry,
  takeLock,
} from './control-path.js'

/** What was made anew. The caller owns the descriptors, and closes those before them. */
export interface RestoredControl {
  /** Listens at the path now: what it takes the place of nobody can find any more. */
  readonly listener: OwnedFd | null
  readonly lock: OwnedFd | null
  readonly entry: PathEntry
}

/**
 * Puts back the path of a control socket, or of its lock, that somebody has removed (a cleaner of /tmp): without the one nobody finds
 * the service, without the other a second one could come to serve. Null: they are there, or are another's by now, or a service
 * manager's. Throws what {@link takeLock} and {@link bindControl} do.
 */
export function restoreControl({
  path,
  entry,
  lock,
}: Pick<FirstControl, 'path' | 'entry' | 'lock'>): RestoredControl | null {
  if (entry.ino < 0n) return null
  const named = controlEntry(path)
  const locked = statSync(`${path}.lock`, { bigint: true, throwIfNoEntry: false })
  if (named !== null && locked !== undefined) return null
  if (locked !== undefined && String(locked.ino) !== inspectOne(lock).ino) return null
  ensureFolder(dirname(path))
  // First: whoever finds no path looks at the lock.
  const taken = locked === undefined ? takeLock(`${path}.lock`) : null
  if (locked === undefined && taken === null) return null
  if (named !== null) return { listener: null, lock: taken, entry }
  try {
    return { lock: taken, ...bindControl(path, 0o600) }
  } catch (error) {
    taken?.close()
    throw error
  }
}

/** The place as it is now; what was there before is closed. */
export function placeRestored(place: FirstControl, { entry, listener, lock }: RestoredControl): FirstControl {
  if (lock !== null) place.lock.close()
  if (listener !== null) place.listener.close()
  return { ...place, entry, listener: listener ?? place.listener, lock: lock ?? place.lock }
}
