import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { processes } from './main-process.js'

/** Time limit of a scan, in CPU time of this process. */
const SCAN_MS = 100
/** Descriptors read between two looks at the clock. */
const LOOKS_BETWEEN = 128

/** How a set of processes uses a socket, as far as /proc shows it. */
export interface SocketUse {
  /** `waits`: in an epoll set; `open`: only open; `none`: no visible process has it; `unknown`: not every process could be read in time. */
  readonly use: 'waits' | 'open' | 'none' | 'unknown'
  /** Inodes of the sockets of these processes that the process `but` has not. */
  readonly sockets: ReadonlySet<string>
}

/** Finds how processes use the socket with this inode. `pids` are searched for epoll sets; `but`: a process that does not count. */
export function socketUse(inode: string, pids: readonly number[], but: number): SocketUse {
  const sockets = new Set<string>()
  const clock = new ScanClock()
  const waits = new RegExp(`^tfd:.* ino:${BigInt(inode).toString(16)} `, 'm')
  let seen = pids.length > 0
  try {
    for (const pid of pids) {
      const fds = descriptorsOf(pid, clock)
      if (fds === null) seen = false
      for (const [fd, leads] of fds ?? []) {
        if (leads.startsWith(SOCKET)) sockets.add(inodeOf(leads))
        else if (leads === 'anon_inode:[eventpoll]' && waits.test(infoOf(pid, fd)))
          return { use: 'waits', sockets }
      }
    }
    const isOpen = sockets.has(inode)
    for (const [, leads] of descriptorsOf(but, clock) ?? []) sockets.delete(inodeOf(leads))
    if (isOpen) return { use: 'open', sockets }
    if (!seen) return { use: 'unknown', sockets }
    // The program may have passed the socket to a process that is not its descendant.
    const others = processes().filter(pid => pid !== but && !pids.includes(pid))
    const has = (pid: number) =>
      (descriptorsOf(pid, clock) ?? []).some(([, leads]) => inodeOf(leads) === inode)
    return { use: others.some(has) ? 'open' : 'none', sockets }
  } catch (error) {
    if (error instanceof OutOfTime) return { use: 'unknown', sockets }
    throw error
  }
}

const SOCKET = 'socket:['

function inodeOf(leads: string): string {
  return leads.startsWith(SOCKET) ? leads.slice(SOCKET.length, -1) : ''
}

class OutOfTime extends Error {}

class ScanClock {
  readonly #begun = process.cpuUsage()
  #looks = 0

  /** Throws OutOfTime. */
  tick(): void {
    if (++this.#looks % LOOKS_BETWEEN !== 0) return
    const { user, system } = process.cpuUsage(this.#begun)
    if ((user + system) / 1000 > SCAN_MS) throw new OutOfTime()
  }
}

/** Returns the descriptors of a process and where they lead; null if they are not readable. */
function descriptorsOf(pid: number, clock: ScanClock): [fd: string, leads: string][] | null {
  let names: string[]
  try {
    names = readdirSync(`/proc/${pid}/fd`)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return code === 'ENOENT' || code === 'ESRCH' ? [] : null
  }
  return names.flatMap(fd => {
    clock.tick()
    try {
      return [[fd, readlinkSync(`/proc/${pid}/fd/${fd}`)]]
    } catch {
      // The process has just closed the descriptor.
      return []
    }
  })
}

function infoOf(pid: number, fd: string): string {
  try {
    return readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1')
  } catch {
    return ''
  }
}
