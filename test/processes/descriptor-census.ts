import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { pause, until } from './until.js'

/** How long a census must stay the same. */
const SETTLED_MS = 150
const LISTEN = '0A'
/** A file that gets its name when it is complete. */
const NEW_FILE = /\.new-/
const MEMORY = /^\/memfd:(\S+)/

/** How many descriptors of each kind a process has. */
export type Census = ReadonlyMap<string, number>

interface TcpEntry {
  readonly port: number
  readonly isListening: boolean
  readonly inode: string
}

function tcpEntries(pid: number | 'self'): TcpEntry[] {
  return ['tcp', 'tcp6'].flatMap(table =>
    readFileSync(`/proc/${pid}/net/${table}`, 'latin1')
      .split('\n')
      .slice(1)
      .filter(line => line.trim() !== '')
      .map(line => {
        const fields = line.trim().split(/\s+/)
        const [, local = '', , state = ''] = fields
        return {
          port: Number.parseInt(local.split(':')[1]!, 16),
          isListening: state === LISTEN,
          inode: fields[9]!,
        }
      }),
  )
}

/** Whether a process of this machine listens on the port. */
export function isListened(port: number): boolean {
  return tcpEntries('self').some(each => each.isListening && each.port === port)
}

/** Counts the descriptors of a process, except memory files: `listener 8080`, `connection`, `socket` (any other one), `pipe`, `anon_inode:[eventfd]`, a path. */
export function censusOf(pid: number): Census {
  const sockets = new Map(tcpEntries(pid).map(each => [each.inode, each]))
  const counts = new Map<string, number>()
  for (const target of targetsOf(pid)) {
    if (MEMORY.test(target)) continue
    const kind = kindOf(target, sockets)
    counts.set(kind, (counts.get(kind) ?? 0) + 1)
  }
  return counts
}

function targetsOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap(fd => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`)
    } catch {
      return []
    }
  })
}

function kindOf(target: string, sockets: ReadonlyMap<string, TcpEntry>): string {
  const [, inode] = /^socket:\[(\d+)\]$/.exec(target) ?? []
  if (inode === undefined)
    return target.replace(/^pipe:\[\d+\]$/, 'pipe').replace(/daemon\d+\.log$/, 'daemon*.log')
  const tcp = sockets.get(inode)
  if (tcp === undefined) return 'socket'
  return tcp.isListening ? `listener ${tcp.port}` : 'connection'
}

/** Returns how many descriptors a process has of each of its memory files, by name: `fdb-state-3`. */
export function memoryFilesOf(pid: number): Census {
  const counts = new Map<string, number>()
  for (const target of targetsOf(pid)) {
    const [, name] = MEMORY.exec(target) ?? []
    if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return counts
}

/** Returns the kinds of which there are more or fewer than before. */
export function differences(before: Census, now: Census): string[] {
  return [...new Set([...before.keys(), ...now.keys()])].flatMap(kind => {
    const [was, is] = [before.get(kind) ?? 0, now.get(kind) ?? 0]
    return was === is ? [] : [`${is} ${kind}, not ${was}`]
  })
}

/** Resolves with the census of a process when it stays the same for a while, and the process writes no new file. */
export async function settledCensus(pid: number): Promise<Census> {
  let last = censusOf(pid)
  return await until(
    `the descriptors of ${pid} stay the same`,
    async () => {
      const before = last
      await pause(SETTLED_MS)
      last = censusOf(pid)
      const isWriting = [...last.keys()].some(kind => NEW_FILE.test(kind))
      return differences(before, last).length === 0 && !isWriting ? last : null
    },
    10_000,
    () => [...last].join('\n'),
  )
}

/** The descriptors of a process that stand for processes that have ended. */
export function leftIn(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap(fd => {
    try {
      if (!readlinkSync(`/proc/${pid}/fd/${fd}`).includes('pidfd')) return []
      const [, of] = /^Pid:\s+(-?\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8')) ?? []
      return Number(of) === -1 ? [`a pidfd (${fd}) of an ended process`] : []
    } catch {
      return []
    }
  })
}

export function textOf(census: Census): string {
  return [...census].map(([kind, count]) => `${count} ${kind}`).join(', ')
}

/** The descriptors of a process, with its memory files. */
export function bothOf(pid: number): Census {
  return new Map([...censusOf(pid), ...memoryFilesOf(pid)])
}

/**
 * {@link bothOf}, with all sockets as `socket`, and without the watch of the control path, which begins some seconds after the start. The kernel's list of
 * connections may lack some while many others begin and end.
 */
export function plainCensus(pid: number): Map<string, number> {
  const counts = new Map<string, number>()
  for (const [kind, count] of bothOf(pid)) {
    if (kind === 'anon_inode:inotify') continue
    const plain = /^(?:listener \d+|connection)$/.test(kind) ? 'socket' : kind
    counts.set(plain, (counts.get(plain) ?? 0) + count)
  }
  return counts
}
