import { native } from './native.js'

/**
 * Lets the descriptor table of this process have room for `count`: resolves when it has, some 15 ms later, in which who needs no more
 * than it had goes on. To grow it when it is needed stops a process with threads for as long, at each doubling. Above RLIMIT_NOFILE nothing
 * is done. Never rejects.
 */
export function makeRoom(count: number): Promise<void> {
  return native.makeRoom(count)
}
