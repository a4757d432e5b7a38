import { native } from './native.js'
import { OwnedFd } from './owned.js'

/** Created with `mode` when it is not there; never through a symbolic link. */
export function openLockFile(path: string, mode: number, label: string): OwnedFd {
  return OwnedFd.own(native.openLockFile(path, mode), label)
}

/** flock(): false when another open file description holds it. Ends when the last descriptor of this one is closed. */
export function tryLock(fd: OwnedFd): boolean {
  return native.tryLock(fd.raw)
}
