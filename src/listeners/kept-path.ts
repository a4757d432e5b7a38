import { linkSync, renameSync, rmSync } from 'node:fs'
import { namesSocket, type OwnedFd } from '../kernel/index.js'
import { secondName } from './second-name.js'

/** Gives the socket its second name, if the path leads to it. Never throws: a folder may be read-only, or its file system without hard links. */
export function keepPath(fd: OwnedFd, path: string): void {
  const kept = secondName(path)
  try {
    if (namesSocket(fd, kept) === true || namesSocket(fd, path) !== true) return
    const aside = `${kept}-${process.pid}`
    rmSync(aside, { force: true })
    linkSync(path, aside)
    renameSync(aside, kept)
  } catch {
    // The listener has no second name: a removed path is reported, and not restored.
  }
}

/** Restores a removed path by the second name. Returns whether the path leads to the socket. Never throws. */
export function restorePath(fd: OwnedFd, path: string): boolean {
  const kept = secondName(path)
  try {
    if (namesSocket(fd, kept) !== true) return false
    linkSync(kept, path)
  } catch {
    // Another process has restored or bound the path meanwhile, or the folder has gone.
  }
  return namesSocket(fd, path) === true
}

/** Removes the second name, unless it leads to another socket. Call it before the path is removed: another process may restore the path. Never throws. */
export function dropSecondName(fd: OwnedFd, path: string): void {
  const kept = secondName(path)
  try {
    if (namesSocket(fd, kept) === true) rmSync(kept, { force: true })
  } catch {
    // The path has gone, or this process may not remove it.
  }
}
