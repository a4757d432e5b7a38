import { readFileSync } from 'node:fs'
import { processes, scanOpenFiles } from '../kernel/index.js'

/** Limit of the CPU time for a scan of /proc. */
const SCAN_MS = 100

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
  const waits = new RegExp(`^tfd:.* ino:${BigInt(inode).toString(16)} `, 'm')
  const use = scanOpenFiles(SCAN_MS, openFiles => {
    let seen = pids.length > 0
    for (const pid of pids) {
      const files = openFiles(pid)
      if (files === null) seen = false
      for (const [fd, target] of files ?? []) {
        if (target.startsWith(SOCKET)) sockets.add(inodeOf(target))
        else if (target === 'anon_inode:[eventpoll]' && waits.test(infoOf(pid, fd))) return 'waits'
      }
    }
    const isOpen = sockets.has(inode)
    for (const [, target] of openFiles(but) ?? []) sockets.delete(inodeOf(target))
    if (isOpen) return 'open'
    if (!seen) return 'unknown'
    // The program may have passed the socket to a process that is not its descendant.
    const others = processes().filter(pid => pid !== but && !pids.includes(pid))
    const has = (pid: number) => openFiles(pid)?.some(([, target]) => inodeOf(target) === inode)
    return others.some(has) ? 'open' : 'none'
  })
  return { use: use ?? 'unknown', sockets }
}

const SOCKET = 'socket:['

function inodeOf(target: string): string {
  return target.startsWith(SOCKET) ? target.slice(SOCKET.length, -1) : ''
}

function infoOf(pid: number, fd: string): string {
  try {
    return readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1')
  } catch {
    return ''
  }
}
