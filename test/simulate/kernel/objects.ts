import type { SimulatedProcess } from '../process.js'

/** The user of all processes. */
export const UID = 1000

/** A failed system call, as the addon and `node:fs` throw it. */
export class Errno extends Error {
  readonly errno = -1
  readonly code: string
  readonly syscall: string

  constructor(code: string, syscall: string) {
    super(`${syscall} ${code}: simulated`)
    this.code = code
    this.syscall = syscall
  }
}

export function fail(code: string, syscall: string): never {
  throw new Errno(code, syscall)
}

/** A uv_poll of a process. */
export interface SimulatedPoll {
  readonly process: SimulatedProcess
  readonly open: Open
  readonly callback: (events: number, error: null) => void
  events: number
  /** Keeps the process alive. */
  isHeld: boolean
}

let inodes = 0

export class Inode {
  readonly ino = ++inodes
  readonly type: 'file' | 'dir' | 'socket'
  readonly name: string
  mode: number
  /** The open file description that has the lock of flock(). */
  locker: Open | null = null
  listener: Listener | null = null
  data = Buffer.alloc(0)
  size = 0
  seals = 0
  /** A memory file, which can be sealed. */
  sealable = false
  /** Each write appends. */
  appends = false
  /** A file or folder of the disk. */
  onDisk = false
  mtimeMs = 0

  constructor(type: Inode['type'], name: string, mode = 0o600) {
    this.type = type
    this.name = name
    this.mode = mode
  }
}

/** Makes a file at least so long. */
export function growTo(inode: Inode, size: number): void {
  if (size > inode.data.length) inode.data = Buffer.concat([inode.data], Math.max(256, size * 2))
  inode.size = Math.max(inode.size, size)
}

/** An open file description. Descriptors, and messages that carry some, refer to it. */
export abstract class Open {
  abstract readonly kind: 'stream' | 'listener' | 'pidfd' | 'file' | 'other'
  readonly inode: Inode | null
  count = 0
  readonly polls = new Set<SimulatedPoll>()

  constructor(inode: Inode | null) {
    this.inode = inode
  }

  /** Lets the scheduler look again at the processes that poll this. */
  wake(): void {
    for (const { process } of this.polls) process.mayRun()
  }
}

export interface Credentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  readonly process: SimulatedProcess
}

interface Segment {
  bytes: Buffer
  fds: Open[] | null
}

/** One end of a connected Unix or TCP socket. */
export class Stream extends Open {
  readonly kind = 'stream'
  readonly received: Segment[] = []
  receivedBytes = 0
  peer: Stream | null = null
  /** The peer was closed with unread bytes, or the connection was broken: the next read fails. */
  reset = false
  /** This end has sent FIN. */
  ended = false
  /** Credentials of the peer. */
  readonly peerIs: Credentials
  readonly tcp: boolean
  readonly ino = ++inodes

  constructor(peerIs: Credentials, tcp: boolean) {
    super(null)
    this.peerIs = peerIs
    this.tcp = tcp
  }
}

/** A socket that is bound to an address, and as a rule listens there. */
export class Listener extends Open {
  readonly kind = 'listener'
  readonly queue: Stream[] = []
  listens: boolean
  reuseAddr: boolean
  reusePort: boolean
  readonly address: string
  readonly port: number
  readonly tcp: boolean
  backlog: number
  owner: Credentials

  constructor(
    inode: Inode,
    at: {
      address: string
      port: number
      tcp: boolean
      backlog: number
      owner: Credentials
      listens?: boolean
      reuseAddr?: boolean
      reusePort?: boolean
    },
  ) {
    super(inode)
    const { listens = true, reuseAddr = false, reusePort = false } = at
    this.listens = listens
    this.reuseAddr = reuseAddr
    this.reusePort = reusePort
    this.address = at.address
    this.port = at.port
    this.tcp = at.tcp
    this.backlog = at.backlog
    this.owner = at.owner
  }
}

export class Pidfd extends Open {
  readonly kind = 'pidfd'
  readonly target: SimulatedProcess

  constructor(target: SimulatedProcess) {
    super(null)
    this.target = target
  }
}

/** A file of the tree, or a memory file. */
export class File extends Open {
  readonly kind = 'file'
  override readonly inode: Inode
  readonly writable: boolean
  readonly readable: boolean

  constructor(inode: Inode, writable: boolean, readable = true) {
    super(inode)
    this.inode = inode
    this.writable = writable
    this.readable = readable
  }
}
