import { lstatSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

/**
 * The second name of a Unix listener, a hard link beside its path. If a program or a cleaner removes the path, a new link to the second name makes
 * the same socket reachable again, for all processes that share it. The kernel offers no way to link a socket that has no name left (linkat(2): ENOENT).
 */
export function secondName(path: string): string {
  return join(dirname(path), `.${basename(path)}.fd-broker`)
}

/** Reports whether the path leads to a socket that has a second name. A service may have left both when its last process was killed. Never throws. */
export function hasSecondName(path: string): boolean {
  try {
    const socket = lstatSync(path, { bigint: true })
    if (!socket.isSocket()) return false
    const kept = lstatSync(secondName(path), { bigint: true })
    return kept.ino === socket.ino && kept.dev === socket.dev
  } catch {
    return false
  }
}
