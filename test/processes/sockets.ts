import { readFileSync } from 'node:fs'

/**
 * Unix sockets of this path in the kernel's table: the listener, and each connection that was made to it. (Bound under a
 * temporary name, they keep a suffix to it.) The reservation of the path has the path inside its own name, and is not counted.
 */
export function socketsAt(path: string): number {
  return readFileSync('/proc/net/unix', 'utf8').split(` ${path}`).length - 1
}
