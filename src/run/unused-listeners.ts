import type { Logger } from '../base/logger.js'
import { inspectOne, processes, procText, scanOpenFiles } from '../kernel/index.js'
import { acceptQueueLength, formatListenerSpec, openTcpSockets } from '../listeners/index.js'
import type { RunningVersion, RunningVersions } from './running-version.js'

const UNUSED_CHECK_MS = 5_000
/** Looks after which a version is not watched any more. */
const MOST_LOOKS = 120
/** Looks at waiting clients before the warning about a program that has bound no socket itself: it may start to accept late. */
const LATE_LOOKS = 12

const MESSAGE =
  'the program does not serve a listener that it was given: it must take the socket from LISTEN_FDS (docs/run.md)'

interface Given {
  readonly name: string
  readonly address: string
  readonly inode: string
  readonly isTcp: boolean
  readonly port: number | undefined
  /** Number of consecutive looks at which clients waited to be accepted. */
  waits: number
}

interface Watched {
  readonly version: RunningVersion
  readonly timer: NodeJS.Timeout
  readonly given: Set<Given>
  looks: number
}

/**
 * Warns once for each listener that a serving version ignores: no process has the socket open, or clients wait while no process has
 * accepted a connection or waits for one.
 */
export class UnusedListeners {
  readonly #versions: Pick<RunningVersions, 'get' | 'listeners' | 'processesOf'>
  readonly #logger: Logger
  readonly #watched = new Map<number, Watched>()

  constructor(versions: Pick<RunningVersions, 'get' | 'listeners' | 'processesOf'>, logger: Logger) {
    this.#versions = versions
    this.#logger = logger
  }

  watch(id: number): void {
    const version = this.#versions.get(id)
    if (version === undefined || this.#watched.has(id)) return
    const { held } = this.#versions.listeners
    const given = new Set<Given>()
    for (const { name, spec } of version.settings.listen) {
      const key = formatListenerSpec(spec)
      const fd = held.find(each => each.key === key)?.fd
      if (fd === undefined) continue
      const { ino, port } = inspectOne(fd)
      given.add({ name, address: key, inode: ino, isTcp: spec.kind === 'tcp', port, waits: 0 })
    }
    if (given.size === 0) return
    const timer = setInterval(() => this.#look(id), UNUSED_CHECK_MS).unref()
    this.#watched.set(id, { version, timer, given, looks: 0 })
  }

  forget(id: number): void {
    clearInterval(this.#watched.get(id)?.timer)
    this.#watched.delete(id)
  }

  close(): void {
    for (const id of [...this.#watched.keys()]) this.forget(id)
  }

  #look(id: number): void {
    const watched = this.#watched.get(id)!
    const { version, given } = watched
    watched.looks++
    for (const listener of given) {
      listener.waits = listener.isTcp && acceptQueueLength(listener.inode) > 0 ? listener.waits + 1 : 0
      if (watched.looks > 1 && listener.waits < 2) continue
      const found = socketUse(listener.inode, this.#versions.processesOf(id), process.pid)
      const isUsed = found.use === 'waits' || (listener.waits >= 2 && hasAccepted(listener, found))
      const why = isUsed ? null : whyUnused(listener, found)
      if (why !== null) {
        const { name, address } = listener
        this.#logger.warn({ version: id, child: version.pid, listener: name, address, why }, MESSAGE)
      }
      if (isUsed || why !== null) given.delete(listener)
    }
    if (given.size === 0 || watched.looks >= MOST_LOOKS) this.forget(id)
  }
}

/** Returns the warning's reason; null if the program may still start to serve the listener. */
function whyUnused({ waits }: Given, { use, sockets }: SocketUse): string | null {
  if (use === 'none') return 'no process has the socket open'
  if (waits < 2) return null
  const seconds = ((waits - 1) * UNUSED_CHECK_MS) / 1000
  const clients = `clients have waited for ${seconds} s to be accepted`
  const own = openTcpSockets().filter(({ inode, listens }) => listens && sockets.has(inode))
  if (own.length > 0)
    return `${clients}, and the program listens on port ${own.map(({ port }) => port).join(', ')}`
  return waits > LATE_LOOKS ? clients : null
}

function hasAccepted({ port }: Given, { use, sockets }: SocketUse): boolean {
  return openTcpSockets().some(
    socket => socket.port === port && !socket.listens && (use === 'unknown' || sockets.has(socket.inode)),
  )
}

/** Limit of the time for a scan of /proc. */
const SCAN_MS = 100

/** How processes use a socket, as far as /proc shows it. */
interface SocketUse {
  /** `waits`: a process waits with epoll; `open`: one has it open; `none`: none has; `unknown`: not every process could be read in time. */
  readonly use: 'waits' | 'open' | 'none' | 'unknown'
  /** Inodes of the processes' sockets, without those that the supervisor has too. */
  readonly sockets: ReadonlySet<string>
}

/** Finds how processes use the socket with this inode. Looks for epoll sets in `pids` only; ignores the process `but`. */
function socketUse(inode: string, pids: readonly number[], but: number): SocketUse {
  const sockets = new Set<string>()
  const waits = new RegExp(`^tfd:.* ino:${BigInt(inode).toString(16)} `, 'm')
  const use = scanOpenFiles(SCAN_MS, openFiles => {
    let seen = pids.length > 0
    for (const pid of pids) {
      const files = openFiles(pid)
      if (files === null) seen = false
      for (const [fd, target] of files ?? []) {
        if (target.startsWith(SOCKET)) sockets.add(inodeOf(target))
        else if (target === 'anon_inode:[eventpoll]' && waits.test(procText(`${pid}/fdinfo/${fd}`)))
          return 'waits'
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
