import { readdirSync, readlinkSync } from 'node:fs'
import { pause, until } from './until.js'

/** Names the open descriptors of a process, sorted: `socket`, `memfd:…`, a path. */
export function openFds(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .map(fd => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`)
      } catch {
        return ''
      }
    })
    .filter(target => target !== '')
    .map(target => target.replace(/^(socket|pipe):\[\d+\]$/, '$1').replace(/^\/memfd:(\S+).*$/, 'memfd:$1'))
    .sort()
}

/** {@link openFds} when two readings 200 ms apart agree: a server that has just begun to serve still writes files. */
export async function settledFds(pid: number): Promise<string[]> {
  let last = openFds(pid)
  return await until(
    `the descriptors of ${pid} stay the same`,
    async () => {
      const before = last
      await pause(200)
      last = openFds(pid)
      return last.join() === before.join() ? last : null
    },
    10_000,
    () => last,
  )
}

/** Waits until a process has these descriptors again, see {@link settledFds}. */
export async function hasFdsAgain(pid: number, fds: readonly string[]): Promise<void> {
  await until(
    `the descriptors of ${pid} are as before`,
    () => openFds(pid).join() === fds.join(),
    5_000,
    () => ({ before: fds, now: openFds(pid) }),
  )
}
