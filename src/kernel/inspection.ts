import { type Inspected, native } from './native.js'
import type { OwnedFd } from './owned.js'

export type { Inspected } from './native.js'

/** What the kernel says about these descriptors, in their order, in one native call. */
export function inspect(fds: readonly OwnedFd[]): Inspected[] {
  const raws = new Array<number>(fds.length)
  for (let i = 0; i < fds.length; i++) raws[i] = fds[i]!.raw
  return native.inspect(raws)
}

/** {@link inspect} for one. */
export function inspectOne(fd: OwnedFd): Inspected {
  return native.inspect([fd.raw])[0]!
}

/** The first that is no TCP or Unix stream socket, or that listens; null: all are connections. A fraction of {@link inspect}'s work. */
export function firstNotStream(fds: readonly OwnedFd[]): OwnedFd | null {
  return fds[native.firstNotStream(fds.map(fd => fd.raw))] ?? null
}
