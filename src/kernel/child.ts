import { native } from './native.js'

/** Descendants whose parents end become children of this process, not of init. False: this system knows no such thing. */
export function adoptOrphans(): boolean {
  return native.adoptOrphans()
}

/** A child that has ended and was not reaped, by anybody's start; 0: none has ended; -1: there is no child. Reaps nothing. */
export function endedChild(): number {
  return native.endedChild()
}

/** Its exit code, or the negative number of the signal that ended it; null: it has not ended, or is no child of ours. */
export function reapChild(pid: number): number | null {
  return native.reapChild(pid)
}
