import { native } from './native.js'

/**
 * Lets the descriptor table of this process have room for `count`. To grow it later stops a process with threads for some 15 ms, at
 * each doubling. Above RLIMIT_NOFILE nothing is done.
 */
export function makeRoom(count: number): void {
  native.makeRoom(count)
}
