import { readFileSync } from 'node:fs'

/**
 * Unix sockets of this path in the kernel's table: the listener, and each connection that was made to it. (Bound under a
 * temporary name, they keep a suffix to it.)
 */
export function socketsAt(path: string): number {
  return readFileSync('/proc/net/unix', 'utf8').split(path).length - 1
}
