import { closeSync, openSync, readSync } from 'node:fs'

/** The kernel gives no process a longer environment, under the usual limit of a stack. */
const text = Buffer.allocUnsafeSlow(2 ** 21)

/**
 * A file of a process in /proc; '' when that has ended, or is another user's. Each test reads one of each process of the machine at its end, and
 * `readFileSync` would take a new buffer for each.
 */
export function procText(pid: number | string, name: 'environ' | 'cmdline' | 'stat' | 'status'): string {
  let fd: number | undefined
  try {
    fd = openSync(`/proc/${pid}/${name}`, 'r')
    let length = 0
    for (let read = -1; read !== 0; length += read)
      read = readSync(fd, text, length, text.length - length, null)
    return text.toString('latin1', 0, length)
  } catch {
    return ''
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}
