/**
 * Finds the process that holds an address, for error messages. Gives up after a limited time. Finds no process of another user or in another
 * PID namespace, and no socket that is in transit between two processes.
 */

import { lstatSync, readFileSync } from 'node:fs'
import { isIPv6 } from '../base/lazy.js'
import { openFile, openFilesOf, processes, readNext, scanOpenFiles } from '../kernel/index.js'
import type { ListenerSpec } from './spec.js'

export interface Occupant {
  pid: number
  /** The first 120 characters of the command line. */
  command: string
  /** The path of its fd-broker control socket, through which a successor can take over; null if it has none. */
  control: string | null
}

/** Limit for reading a table. /proc/net/tcp starts with the listening sockets. */
const TABLE_BYTES = 4 << 20
/** Limit of the CPU time for a scan of /proc. */
const SCAN_MS = 200
const LOCK_SUFFIX = '.lock'

/** Returns the command line of a process, or its short name; '' if neither can be read. */
export function commandOf(pid: number): string {
  try {
    const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replace(/\0+$/, '').replaceAll('\0', ' ')
    return (line || readFileSync(`/proc/${pid}/comm`, 'utf8').trim()).slice(0, 120)
  } catch {
    return ''
  }
}

export function findOccupant(spec: ListenerSpec): Occupant | null {
  const inodes = spec.kind === 'unix' ? unixInodes(spec) : inetInodes(spec)
  const pid = inodes.size === 0 ? null : findHolder(inodes)
  return pid === null ? null : { pid, command: commandOf(pid), control: controlOf(pid) }
}

/**
 * Returns the lines of /proc/self/net/NAME without the header; none if the file cannot be read. With `onlyListening`, stops reading when the
 * first other socket appears: a TCP table begins with the listening sockets.
 */
function readTable(name: string, onlyListening = false): string[] {
  try {
    using fd = openFile(`/proc/self/net/${name}`, 'r', name)
    const chunk = Buffer.allocUnsafe(64 << 10)
    let text = ''
    for (let got = 1; got > 0 && text.length < TABLE_BYTES; ) {
      got = readNext(fd, chunk)
      text += chunk.toString('utf8', 0, got)
      if (onlyListening && /^ *\d+: \S+ \S+ (?!0A)/m.test(text)) break
    }
    return text.split('\n').slice(1)
  } catch {
    return []
  }
}

/** Formats an address as /proc/net does: 32-bit words in host byte order (little endian wherever Node runs on Linux today). */
function kernelHex(host: string): string {
  if (!isIPv6(host)) return hexWords(Buffer.from(host.split('.').map(Number)))
  const canonical = new URL(`http://[${host.replace(/%.*/, '')}]`).hostname.slice(1, -1)
  const [head = '', tail] = canonical.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const groups = [...left, ...new Array<string>(8 - left.length - right.length).fill('0'), ...right]
  const bytes = Buffer.alloc(16)
  groups.forEach((group, i) => {
    bytes.writeUInt16BE(Number.parseInt(group, 16), i * 2)
  })
  return hexWords(bytes)
}

function hexWords(bytes: Buffer): string {
  return Buffer.from(bytes).swap32().toString('hex').toUpperCase()
}

const LISTENING = '0A'

export interface InetSocket {
  /** In the format of {@link kernelHex}. */
  readonly address: string
  readonly port: number
  readonly listens: boolean
  /** Bytes that wait to be read; for a listener, connections that wait to be accepted. */
  readonly queueLength: number
  /** `0` if no process has the socket open. */
  readonly inode: string
}

function inetSockets(table: string, onlyListening = false): InetSocket[] {
  return readTable(table, onlyListening).map(line => {
    const [, local = '', , state, queues = '', , , , , inode = '0'] = line.trim().split(/\s+/)
    const [address = '', port = ''] = local.split(':')
    return {
      address,
      port: Number.parseInt(port, 16),
      listens: state === LISTENING,
      queueLength: Number.parseInt(queues.split(':')[1] ?? '0', 16),
      inode,
    }
  })
}

/** Returns the inodes of sockets on this port with the same address; if there are none, those with an overlapping address (0.0.0.0 or ::). */
function inetInodes(spec: ListenerSpec): Set<string> {
  const wanted = kernelHex(spec.host)
  const same = new Set<string>()
  const overlapping = new Set<string>()
  for (const table of [spec.kind, `${spec.kind}6`]) {
    for (const { address, port, listens, inode } of inetSockets(table)) {
      if (port !== spec.port || (spec.kind === 'tcp' && !listens) || inode === '0') continue
      if (address === wanted) same.add(inode)
      else if (/^0+$/.test(address) || /^0+$/.test(wanted)) overlapping.add(inode)
    }
  }
  return same.size > 0 ? same : overlapping
}

/** Returns the number of connections in the accept queue of a TCP listener; 0 if it is unknown. */
export function acceptQueueLength(inode: string): number {
  for (const table of ['tcp', 'tcp6']) {
    const listener = inetSockets(table, true).find(socket => socket.listens && socket.inode === inode)
    if (listener !== undefined) return listener.queueLength
  }
  return 0
}

/** Returns the TCP sockets of this network namespace that a process has open. A connection that waits to be accepted is not one of them. */
export function openTcpSockets(): InetSocket[] {
  return ['tcp', 'tcp6'].flatMap(table => inetSockets(table).filter(({ inode }) => inode !== '0'))
}

/** Reports whether any socket of this network namespace is bound to the path, even one that does not listen. */
export function isBound(path: string): boolean {
  return unixInodes({ path, abstract: false }).size > 0
}

/** Returns the inodes of unconnected sockets (state 01) with this path. An accepted connection also has the path of its listener. */
function unixInodes({ path, abstract }: Pick<ListenerSpec, 'path' | 'abstract'>): Set<string> {
  const wanted = abstract ? `@${path}` : path
  const inodes = new Set<string>()
  for (const line of readTable('unix')) {
    const found = /^\S+ \S+ \S+ \S+ \S+ 01 +(\d+) (.*)$/.exec(line)
    if (found?.[2] === wanted) inodes.add(found[1]!)
  }
  return inodes
}

function findHolder(inodes: Set<string>): number | null {
  const wanted = new Set([...inodes].map(inode => `socket:[${inode}]`))
  const holder = scanOpenFiles(SCAN_MS, openFiles =>
    processes().find(pid => openFiles(pid)?.some(([, target]) => wanted.has(target))),
  )
  return holder ?? null
}

/** Returns the path of a process's control socket, or null. A process that holds the control socket PATH has the lock file `PATH.lock` open. */
export function controlOf(pid: number): string | null {
  for (const [, file] of openFilesOf(pid) ?? []) {
    if (!file.endsWith(LOCK_SUFFIX)) continue
    const path = file.slice(0, -LOCK_SUFFIX.length)
    try {
      if (lstatSync(path, { bigint: true }).isSocket()) return path
    } catch {
      // The path was removed, or is in a folder that this user cannot read.
    }
  }
  return null
}
