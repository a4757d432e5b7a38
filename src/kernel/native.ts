/**
 * The whole surface of the addon, typed in one place. Only this folder imports it: raw descriptor numbers stop here.
 *
 * Every call is non-blocking and returns at once. A failed system call throws {@link NativeError}, except
 * where a result says otherwise (`EAGAIN` is a result, not an error). EINTR is retried inside.
 * A descriptor that the addon opened belongs to the environment (main thread or worker) that opened it and
 * is closed when that environment ends, unless it was closed or {@link Native.release}d before.
 */
import { loadAddon } from './addon.js'

/** The error of a failed system call. */
export interface NativeError extends Error {
  /** Symbolic errno, for example `EADDRINUSE`. */
  code: string
  /** Positive errno number. */
  errno: number
  /** The system call that failed, for example `bind`. */
  syscall: string
}

export type SocketKind = 'tcp' | 'udp' | 'unix'

export interface BindOptions {
  kind: SocketKind
  /** IP literal for tcp/udp; file system path, or abstract name without its leading NUL, for unix. */
  host: string
  /** tcp/udp only; 0 lets the kernel choose. */
  port?: number
  /** unix only: `host` is an abstract name. */
  abstract?: boolean
  /** unix only: stream (default) or datagram. */
  datagram?: boolean
  reuseAddr?: boolean
  reusePort?: boolean
  /** tcp/udp on an IPv6 address; default true, so that the two families never meet in one socket unasked. */
  ipv6Only?: boolean
  /** Stream sockets: call listen() with this backlog; absent: bind only. */
  backlog?: number
  /** unix path only: permission bits, set before the socket can be connected to. */
  mode?: number
  /** unix path only. */
  uid?: number
  gid?: number
}

/** One inspected descriptor; `error` is set (and the rest is meaningless) when the descriptor is not open. */
export interface Inspected {
  error?: string
  /** fstat's file type. */
  type: 'socket' | 'file' | 'dir' | 'fifo' | 'char' | 'block' | 'anon' | 'other'
  /** Decimal text: device and inode do not fit a double. */
  dev: string
  ino: string
  /** Sockets only, from SO_DOMAIN, SO_TYPE, SO_PROTOCOL. */
  family?: 'inet' | 'inet6' | 'unix' | 'other'
  socketType?: 'stream' | 'dgram' | 'seqpacket' | 'other'
  protocol?: number
  /** SO_ACCEPTCONN. */
  accepting?: boolean
  /** SO_COOKIE in decimal; absent where the kernel has none. */
  cookie?: string
  /** getsockname(): IP literal, path, or abstract name. */
  address?: string
  port?: number
  abstract?: boolean
  /** SO_REUSEPORT, SO_REUSEADDR, IPV6_V6ONLY as they stand. */
  reusePort?: boolean
  reuseAddr?: boolean
  ipv6Only?: boolean
}

export interface Received {
  /** Bytes written to the buffer; 0 is end of stream; -1 nothing there now (EAGAIN). */
  bytes: number
  /** Descriptors that arrived with these bytes, CLOEXEC from birth, in order; null when none. */
  fds: number[] | null
  /** MSG_CTRUNC: the kernel closed descriptors that did not fit (limit of this process, or buffer); MSG_TRUNC: the end of a datagram did not. */
  truncated: boolean
}

export interface PeerCredentials {
  /** 0 when the peer lives in another PID namespace. */
  pid: number
  uid: number
  gid: number
}

/** Watches one descriptor on the event loop (uv_poll). Does not own the descriptor. */
export interface Poll {
  /** Bits: 1 readable, 2 writable, 4 disconnect. Replaces the bits watched before. */
  start(events: number): void
  /** Stops watching; must come before the descriptor is closed. May be started again. */
  stop(): void
  /** Stops for good and frees the handle. Idempotent. */
  close(): void
  ref(): void
  unref(): void
}

export const READABLE = 1
export const WRITABLE = 2
export const DISCONNECT = 4

export const SEAL_SEAL = 1
export const SEAL_SHRINK = 2
export const SEAL_GROW = 4
export const SEAL_WRITE = 8
export const SEAL_FUTURE_WRITE = 16
/** The kernel sets it on a file that can never be executed; it says nothing about who may write. */
export const SEAL_EXEC = 32

/** The most descriptors one message carries (SCM_MAX_FD of the kernel). */
export const MAX_FDS_PER_MESSAGE = 253

export interface Native {
  // sockets.c
  bindSocket(options: BindOptions): number
  /** listen() again on a bound or listening socket: changes the backlog. */
  listen(fd: number, backlog: number): void
  /**
   * Begins to connect to an IP address, with TCP_NODELAY and SO_KEEPALIVE: the descriptor is writable when it is known what comes of it. Throws what is known at once:
   * ENETUNREACH, EADDRNOTAVAIL (no port is left), EMFILE.
   */
  connectTcp(host: string, port: number): number
  /** The result of a connect: 0, the connection stands; an errno for {@link failure}, once; -1: none yet, or it was told. */
  connectResult(fd: number): number
  /** Non-blocking connect to a Unix stream socket. ECONNREFUSED, ENOENT, EAGAIN (backlog full) throw. */
  connectUnix(path: string, abstract: boolean): number
  /** The same to a Unix datagram socket. ECONNREFUSED, ENOENT, EPROTOTYPE (it is a stream socket) throw. */
  connectDatagram(path: string, abstract: boolean): number
  /** -1 when nothing waits. Accepted sockets are non-blocking and CLOEXEC. */
  accept(fd: number): number
  /** A connected pair of Unix stream sockets, non-blocking. */
  socketPair(): [number, number]
  /** setsockopt of one named boolean option. */
  setOption(
    fd: number,
    option: 'reuseAddr' | 'reusePort' | 'keepAlive' | 'ipv6Only' | 'passCred',
    value: boolean,
  ): void

  // messages.c
  /**
   * Sends `length` bytes from `offset` with up to 253 descriptors. Returns the bytes taken, or -1 (EAGAIN).
   * When it returns > 0 all descriptors have gone with the first of them (never send them again).
   */
  sendMessage(
    fd: number,
    data: Uint8Array,
    offset: number,
    length: number,
    fds: readonly number[] | null,
  ): number
  /** Receives into `into`, with room for 253 descriptors. */
  receiveMessage(fd: number, into: Uint8Array, offset: number, length: number): Received
  /** From a datagram socket with the option `passCred`: who has sent it, by the kernel's word; -1 where it has none. */
  receiveDatagram(fd: number, into: Uint8Array, offset: number, length: number): Received & PeerCredentials

  // send.c
  /**
   * Sends `length` bytes of `first` from `offset`, and behind them `moreLength` of `more` from `moreOffset`, in one call, through a
   * connected socket. Returns the bytes taken, or -1: not now (EAGAIN).
   */
  send(
    fd: number,
    first: Uint8Array,
    offset: number,
    length: number,
    more: Uint8Array | null,
    moreOffset: number,
    moreLength: number,
  ): number

  // streams.c
  /** Reads once from a connected socket. Bytes; 0: its peer has ended its direction; -1: nothing there now (EAGAIN). */
  receive(fd: number, into: Uint8Array, offset: number, length: number): number
  /** FIN. Nothing is done where the connection has ended. */
  shutDown(fd: number): void
  /** RST in place of FIN when it is closed, where its protocol has that. */
  resetAtClose(fd: number): void

  // epoll.c
  /** Null: this system has none. */
  createEpoll(): number | null
  /** Has it watch a descriptor for `now` (bits: 1 readable, 2 writable; 0: no more) where it watched for `before`. ENOSPC, ENOMEM throw. */
  setEpoll(epoll: number, fd: number, before: number, now: number): void
  /**
   * Which are ready, at once: for each its descriptor, its bits (a broken one has both), and how many bytes it read from it, as many as fit into
   * `into` and `memory`, 256 at most. Returns how many. The others come next time.
   *
   * Those that are not 0 in `eager` are read from: the first of them into the first `slot` bytes of `memory`, and so on, until `budget` bytes have
   * come. 0: its peer has ended its direction; -1: not read, or none now; less: `-1 - errno`, for {@link failure}.
   */
  askEpoll(
    epoll: number,
    into: Int32Array,
    eager: Uint8Array,
    memory: Uint8Array,
    slot: number,
    budget: number,
  ): number

  // errors.c
  /** The error that a call would have thrown. */
  failure(errno: number, syscall: string): NativeError

  // descriptors.c
  dup(fd: number): number
  /**
   * Lets the descriptor table have room for `count`, beside what this thread does. To grow it later stops a process with threads for some
   * 15 ms, at each doubling. Above RLIMIT_NOFILE nothing is done. Never rejects.
   */
  makeRoom(count: number): Promise<void>
  close(fd: number): void
  closeMany(fds: readonly number[]): void
  /** The environment no longer closes it at its end: another owner does. */
  release(fd: number): void
  /** The environment takes charge of a descriptor opened elsewhere (inherited, borrowed from Node). */
  adopt(fd: number): void
  setCloexec(fd: number, on: boolean): void
  /** O_NONBLOCK off or on, of the open file: for all who hold it. */
  setBlocking(fd: number, on: boolean): void
  inspect(fds: readonly number[]): Inspected[]
  /** The index of the first that is no TCP or Unix stream socket, or that listens; -1: all are connections. */
  firstNotStream(fds: readonly number[]): number

  // peers.c
  peerCredentials(fd: number): PeerCredentials
  /** SO_PEERPIDFD, or null where the kernel has none. */
  peerPidfd(fd: number): number | null
  /** SIOCOUTQ; 0 where there is none. */
  unreadBytes(fd: number): number
  /** tcpi_bytes_acked of TCP_INFO: what the peer of a TCP socket has acknowledged since the connection was made; null where there is none. */
  ackedBytes(fd: number): number | null
  /** pidfd_open, or null where the kernel has none, or a filter of system calls refuses it. ESRCH throws. */
  pidfdOpen(pid: number): number | null
  /** pidfd_send_signal; ESRCH throws. */
  pidfdSignal(pidfd: number, signal: number): void
  /** pidfd_getfd: a dup of the descriptor `number` of that process. EPERM (not ours to look into), ESRCH (dead), EBADF (it has no such descriptor), ENOSYS throw. */
  pidfdTake(pidfd: number, number: number): number
  /** From fdinfo: -1 dead, 0 in another PID namespace. */
  pidfdPid(pidfd: number): number
  /** poll() with no wait: true when the process of this pidfd has ended. */
  pidfdDead(pidfd: number): boolean
  /** poll() of many sockets with no wait. For each: 0; 1, its peer has ended its direction; 2, the connection is broken. */
  hangups(fds: readonly number[]): number[]

  // unix_path.c
  /** Whether `path` is the file of this Unix socket; null where the kernel does not tell. Opens nothing. */
  namesSocket(fd: number, path: string): boolean | null

  // children.c
  /** Descendants whose parents end become children of this process, not of init. False: this system knows no such thing. */
  adoptOrphans(): boolean
  /** A child that has ended and was not reaped, by anybody's start; 0: none has ended; -1: there is no child. Reaps nothing. */
  endedChild(): number
  /** Its exit code, or the negative number of the signal that ended it; null: it has not ended, or is no child of ours. */
  reapChild(pid: number): number | null

  // spawn.c
  /**
   * Starts a child, at the head of a process group of its own and with usual signals; returns its pid when it has been executed, throws
   * the system call that failed (`execve`, `chdir` …). Not a child of Node's: who calls this reaps it.
   *
   * `words`: file, folder ("": this one's), argv[0] and the rest; `env`: NAME=VALUE; all of them end with NUL. `pidAt`: where the
   * child writes its own number over ten bytes of `env`, or -1. `fds` become 3, 4, …; of the others it has 0, 1 and 2.
   * `deathSignal`: what it gets when the thread that called this ends (Linux); 0: nothing.
   */
  spawn(
    words: Uint8Array,
    env: Uint8Array,
    pidAt: number,
    fds: readonly number[],
    deathSignal: number,
  ): number

  // execute.c
  /**
   * execve in place of this program: the same process, in another folder ("": this one's), with usual signals but those that are held, with `fds` by the numbers
   * that they have, or from number `first` on, and 0, 1 and 2, which block. Does not return; throws the system call that failed (`execve`, `chdir`): then all is as it was, but for `fchdir`, after
   * which this process is in the other folder. `words` and `env` as for {@link spawn}.
   */
  execute(words: Uint8Array, env: Uint8Array, fds: readonly number[], first?: number): never

  // signals.c
  /**
   * Blocks signals (bit n - 1 is signal n) in the calling thread; another thread that gets one sends it there. {@link execute} leaves
   * them blocked. Throws when signals are held already.
   */
  holdSignals(signals: number): void
  /** Restores what {@link holdSignals} changed, or unblocks what preloaded.c holds. Returns whether SIGTERM was blocked. */
  releaseSignals(): boolean

  // memory.c
  /**
   * memfd_create with MFD_ALLOW_SEALING, and with MFD_NOEXEC_SEAL where the kernel has it (then the file has SEAL_EXEC); where there is
   * no memfd, or a filter of system calls refuses it: an unlinked temporary file (seals are then null).
   */
  memfd(name: string): number
  addSeals(fd: number, seals: number): void
  /** F_GET_SEALS; null where the file knows no seals. */
  getSeals(fd: number): number | null
  /** A read-only descriptor of the same memory, of its own description (through /proc/self/fd). */
  reopenReadOnly(fd: number): number
  /** pread/pwrite. pwrite loops over short writes; EPERM (sealed) throws. Return the bytes moved. */
  pread(fd: number, into: Uint8Array, offset: number, length: number, position: number): number
  pwrite(fd: number, from: Uint8Array, offset: number, length: number, position: number): number
  fileSize(fd: number): number

  // sums.c
  /**
   * Adds the SHA-256 of each of `count` entries to the eight `lanes`, each modulo 2^32: of the lengths of section, key and value, and
   * these. `ranges`: where key and value of each lie in the buffer (start, end, start, end).
   */
  addSums(
    lanes: Uint32Array,
    section: Uint8Array,
    buffer: Uint8Array,
    ranges: Uint32Array,
    count: number,
  ): void

  // changes.c
  /**
   * Looks at `count` encoded changes of the state (Change in proto/state.proto) that lie in the buffer where `ranges` says (start, end), and tells of
   * each, in 11 numbers: 1; kind; version; start and end of section, key and value; the hash of the key with this
   * `seed`, as hashOf() of src/state/key-bytes.ts has it; its sum, as SectionStore.printOf(). 0 in place of the 1, and nothing else of
   * use: what is wrong with it, rare, or not in ASCII, is for the caller to look at.
   */
  scanChanges(buffer: Uint8Array, ranges: Uint32Array, count: number, seed: number, into: Uint32Array): void

  // locks.c
  /** flock(LOCK_EX | LOCK_NB): false when another open file description holds it. Opens nothing. */
  tryLock(fd: number): boolean
  /** open(O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW) with `mode`. */
  openLockFile(path: string, mode: number): number

  // inotify.c
  /**
   * A descriptor that is readable once the folder or one of the files was removed, replaced or renamed; a path that is not there is left
   * out. Null where there is no inotify, or none left for this user.
   */
  watchPaths(folder: string, files: readonly string[]): number | null

  // poll.c
  createPoll(fd: number, callback: (events: number, error: NativeError | null) => void): Poll

  /** Descriptors of this environment that the addon has opened or adopted and not closed or released. */
  openCount(): number
}

let missing: unknown = null

/** Every call throws if there is no addon: the import of the library works everywhere. */
export const native: Native = load()

/** Throws ERR_FDB_ADDON or ERR_FDB_PLATFORM if the addon was not loaded. */
export function requireAddon(): void {
  if (missing !== null) throw missing
}

function load(): Native {
  try {
    return loadAddon() as Native
  } catch (error) {
    missing = error
    return new Proxy({} as Native, { get: () => requireAddon })
  }
}
