/**
 * The types of all functions of the addon. Only this folder imports it: other folders do not use raw descriptor numbers. A function without a comment
 * here is documented at the function of this folder that calls it.
 *
 * No call blocks. A failed system call throws {@link NativeError}, unless its result is documented (`EAGAIN` is a result). The addon retries EINTR. A
 * descriptor that the addon opened belongs to its environment (main thread or worker); when that ends, the addon closes it, unless it was closed or
 * {@link Native.release}d before.
 */
import { loadAddon } from './addon.js'

/** The error of a failed system call. */
export interface NativeError extends Error {
  /** Symbolic errno, for example `EADDRINUSE`. */
  code: string
  errno: number
  /** The system call that failed, for example `bind`. */
  syscall: string
}

export interface BindOptions {
  kind: 'tcp' | 'udp' | 'unix'
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
  /** tcp/udp on an IPv6 address. Default true, so that a socket serves both families only if the caller asks for it. */
  ipv6Only?: boolean
  /** Stream sockets only: the backlog for listen(). Without a backlog the socket is only bound. */
  backlog?: number
  /** unix path only: permission bits, set before any client can connect. */
  mode?: number
  /** unix path only. */
  uid?: number
  gid?: number
}

/** The properties of a descriptor that the kernel reports. If the descriptor is not open, `error` is set and the other fields are meaningless. */
export interface Inspected {
  error?: string
  /** The file type of fstat(). */
  type: 'socket' | 'file' | 'dir' | 'fifo' | 'char' | 'block' | 'anon' | 'other'
  /** Device and inode as decimal text, because they do not fit into a double. */
  dev: string
  ino: string
  /** Sockets only, from SO_DOMAIN, SO_TYPE, SO_PROTOCOL. */
  family?: 'inet' | 'inet6' | 'unix' | 'other'
  socketType?: 'stream' | 'dgram' | 'seqpacket' | 'other'
  protocol?: number
  /** SO_ACCEPTCONN. */
  accepting?: boolean
  /** SO_COOKIE in decimal; absent if the kernel does not support it. */
  cookie?: string
  /** getsockname(): IP literal, path, or abstract name. */
  address?: string
  port?: number
  abstract?: boolean
  /** The current SO_REUSEPORT, SO_REUSEADDR and IPV6_V6ONLY. */
  reusePort?: boolean
  reuseAddr?: boolean
  ipv6Only?: boolean
}

export interface Received {
  /** Bytes written to the buffer; 0: end of the stream; -1: nothing to read (EAGAIN). */
  bytes: number
  /** Descriptors that arrived with these bytes, in order and with CLOEXEC; null if there are none. */
  fds: number[] | null
  /** The kernel closed descriptors that did not fit into the buffer or the limit of this process (MSG_CTRUNC), or cut a datagram (MSG_TRUNC). */
  truncated: boolean
}

export interface PeerCredentials {
  /** 0 if the peer is in another PID namespace. */
  pid: number
  uid: number
  gid: number
}

/** Watches one descriptor on the event loop (uv_poll). Does not own the descriptor. */
export interface Poll {
  /** Watches for these events (bits: 1 readable, 2 writable, 4 disconnect) instead of the previous ones. */
  start(events: number): void
  /** Stops watching. Call it before the descriptor is closed. {@link start} watches again. */
  stop(): void
  /** Stops watching and frees the handle. Idempotent. */
  close(): void
  ref(): void
  unref(): void
}

/** See {@link Native.watchSignal}. */
export interface NativeSignalWatch {
  /** Stops watching and frees the handle. Idempotent. */
  close(): void
  /**
   * Returns whether signals have arrived that the event loop has not read yet, and that do not reach the callback after `close()`: 0 if none has, 1 if
   * only this process has sent them, else 2.
   */
  undelivered(): 0 | 1 | 2
}

export const READABLE = 1
export const WRITABLE = 2
export const DISCONNECT = 4

export const SEAL_SEAL = 1
export const SEAL_SHRINK = 2
export const SEAL_GROW = 4
export const SEAL_WRITE = 8
export const SEAL_FUTURE_WRITE = 16
/** The kernel sets this seal on a file that can never be executed. The seal does not restrict writing. */
export const SEAL_EXEC = 32

/** Maximum number of descriptors in one message (SCM_MAX_FD of the kernel). */
export const MAX_FDS_PER_MESSAGE = 253

declare const TLS_CONNECTION: unique symbol

/** See {@link Native.madeTls}. */
export interface TlsConnection {
  readonly [TLS_CONNECTION]: true
}

declare const KEY_INDEX: unique symbol

/** See {@link Native.createKeys}. */
export interface KeyIndex {
  readonly [KEY_INDEX]: true
}

export interface Native {
  // sockets.c
  bindSocket(options: BindOptions): number
  listen(fd: number, backlog: number): void
  /**
   * Starts to connect to an IP address, with TCP_NODELAY and SO_KEEPALIVE. The descriptor becomes writable when {@link connectResult} is available.
   * Throws immediate errors: ENETUNREACH, EADDRNOTAVAIL (no free port), EMFILE.
   */
  connectTcp(host: string, port: number): number
  /** Returns 0 if the connection is established; an errno for {@link failure}, only once; -1 if there is no result yet, or it was returned already. */
  connectResult(fd: number): number
  /** See `connectUdp()`. */
  connectUdp(host: string, port: number): number
  connectUnix(path: string, abstract: boolean): number
  connectDatagram(path: string, abstract: boolean): number
  /** Returns a non-blocking CLOEXEC socket, or -1 if no connection waits. */
  accept(fd: number): number
  socketPair(): [number, number]
  setOption(
    fd: number,
    option: 'reuseAddr' | 'reusePort' | 'keepAlive' | 'ipv6Only' | 'passCred' | 'tellAddress' | 'longQueue',
    value: boolean,
  ): void

  // messages.c
  sendMessage(
    fd: number,
    data: Uint8Array,
    offset: number,
    length: number,
    fds: readonly number[] | null,
  ): number
  /** Receives up to `length` bytes and 253 descriptors. */
  receiveMessage(fd: number, into: Uint8Array, offset: number, length: number): Received
  /**
   * Ends reception on a Unix stream: its peer can send nothing any more. Returns whether no descriptors wait in it; false if that is not certain,
   * or the addon has not opened the descriptor.
   */
  stopReceiving(fd: number): boolean
  /** Receives from a datagram socket with the option `passCred`. `pid`, `uid` and `gid` are those of the sender, as the kernel reports them; -1 if the kernel reports none. */
  receiveDatagram(fd: number, into: Uint8Array, offset: number, length: number): Received & PeerCredentials

  // datagrams.c
  /**
   * Receives a datagram from any peer. Returns its size, -1 if none waits. Writes both of its ends to `ends`, 40 bytes: the peer's address and port, and
   * with the option `tellAddress` the address to which the peer has sent.
   */
  receiveFrom(fd: number, into: Uint8Array, offset: number, length: number, ends: Uint8Array): number
  /** Returns when the next datagram came, in nanoseconds since 1970; 0 if the kernel does not tell, -1 if none waits. The datagram stays. */
  arrival(fd: number): number
  /** Sends a datagram from the one end to the other, as {@link receiveFrom} wrote them. Returns -1 if the kernel has no room. */
  sendTo(fd: number, from: Uint8Array, offset: number, length: number, ends: Uint8Array): number
  /** Returns the IP address of the peer. */
  peerOfEnds(ends: Uint8Array): string

  // send.c
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
  /** Reads once from a connected socket. Returns the number of bytes; 0: the peer has sent FIN; -1: nothing to read (EAGAIN). */
  receive(fd: number, into: Uint8Array, offset: number, length: number): number
  /** As `receive`, but the bytes stay in the kernel. */
  peek(fd: number, into: Uint8Array, offset: number, length: number): number
  /** Sends FIN. Does nothing if the connection has ended. */
  shutDown(fd: number): void
  /** Makes a later close send RST instead of FIN, if the protocol has it. */
  resetAtClose(fd: number): void

  // splice.c
  /** Returns the two ends of a pipe: where bytes come out, and where they go in. */
  openPipe(): [number, number]
  /**
   * Moves at most `most` bytes from one stream socket to another, through an empty pipe. Returns how many have left the first; 0: its peer has sent FIN;
   * -1: nothing to read; -2: not possible with these sockets or this kernel, and nothing was moved. `result[0]`: how many of them are in the pipe, because
   * the second socket has no room, or has failed with the errno `result[1]`. Throws if the first is broken.
   */
  splice(from: number, to: number, out: number, into: number, most: number, result: Int32Array): number
  /** Fills a part of the memory from a pipe, which must have that many bytes. */
  readPipe(out: number, into: Uint8Array, offset: number, length: number): void

  // epoll.c
  /** Returns null if this system has no epoll. */
  createEpoll(): number | null
  /** Watches a descriptor for the events `now` (bits: 1 readable, 2 writable; 0: none) instead of `before`. Throws ENOSPC, ENOMEM. */
  setEpoll(epoll: number, fd: number, before: number, now: number): void
  /**
   * Returns how many descriptors are ready, without waiting: at most 256, and as many as fit into `into` and `memory`. The next call returns the
   * others. Writes three numbers for each descriptor into `into`: its number, events (a broken connection has both bits), number of bytes read.
   *
   * Reads from the descriptors with a 1 in `eager`, until it has read `budget` bytes: the descriptor at position n of the result has the bytes from
   * n * `slot` of `memory`. Instead of a number of bytes, 0 means that the peer has sent FIN; -1: not read, or nothing to read; less: `-1 - errno`, for
   * {@link failure}.
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
  /** Creates the error that a call throws for this errno. */
  failure(errno: number, syscall: string): NativeError

  // descriptors.c
  dup(fd: number): number
  /**
   * Grows the descriptor table of this process to `count` entries, in another thread. Without this call the kernel grows the table on demand, and
   * stops a process with threads for about 15 ms at each doubling. Does nothing above RLIMIT_NOFILE. Never rejects.
   */
  makeRoom(count: number): Promise<void>
  close(fd: number): void
  closeMany(fds: readonly number[]): void
  /** Gives the descriptor to another owner: the environment does not close the descriptor when the environment ends. */
  release(fd: number): void
  /** For a descriptor that was inherited or opened by Node: the environment closes the descriptor when the environment ends. */
  adopt(fd: number): void
  setCloexec(fd: number, on: boolean): void
  setBlocking(fd: number, on: boolean): void

  // aside.c
  /**
   * Closes descriptors in another thread, because the close may wait: those of a lane in order, lanes independently of each other. A lane is a uid, or
   * -1 to -9. A wait of SO_LINGER ends after a millisecond; a wait of FUSE's flush cannot be ended. The numbers stay in use until then.
   */
  closeAside(lane: number, fds: readonly number[]): void
  /** Returns the number of descriptors of a lane that are not closed yet. */
  closingAside(lane: number): number

  // inspect.c
  inspect(fds: readonly number[]): Inspected[]
  firstNotStream(fds: readonly number[]): number

  // peers.c
  peerCredentials(fd: number): PeerCredentials
  /** SO_PEERPIDFD; null if the kernel does not support it. */
  peerPidfd(fd: number): number | null
  /** SIOCOUTQ; 0 if the kernel does not support it. */
  unreadBytes(fd: number): number
  /** tcpi_bytes_acked of TCP_INFO: the bytes that a TCP peer has acknowledged since the connection was established; null if the kernel does not support it. */
  ackedBytes(fd: number): number | null
  /** pidfd_open(); null if the kernel does not support it, or seccomp refuses it. Throws ESRCH. */
  pidfdOpen(pid: number): number | null
  pidfdSignal(pidfd: number, signal: number): void
  pidfdTake(pidfd: number, number: number): number
  pidfdPid(pidfd: number): number
  pidfdDead(pidfd: number): boolean
  /** Returns for each socket 1 if the peer has sent FIN, 2 if the connection is broken, otherwise 0. */
  hangups(fds: readonly number[]): number[]

  // unix_path.c
  namesSocket(fd: number, path: string): boolean | null

  // children.c
  /** Makes orphaned descendants children of this process instead of init. Returns false if this system does not support it. */
  adoptOrphans(): boolean
  /** Returns the pid of a child that has ended, even one that other code started, without reaping it; 0 if none has ended; -1 if there is no child. */
  endedChild(): number
  /** Reaps a child. Returns its exit code, or the negative number of the signal that ended it; null if it runs, or is no child of this process. */
  reapChild(pid: number): number | null

  // starter.c
  /** See `startApart()`. Returns false if this system cannot. Every call needs one of {@link closeStarter}. */
  openStarter(): boolean
  closeStarter(): void
  startsApart(): boolean

  // spawn.c
  /**
   * See `startChild()`. `words` are file, folder ('' for the current one) and argv; `env` are NAME=VALUE. Each string ends with NUL. The child writes
   * its pid into ten bytes of `env` at `pidAt`, unless that is -1. The child has this process's 0, 1 and 2, and `fds` from 3 on; with `inSession` only `fds`,
   * from 0 on, and is the leader of a new session, with default signal handling.
   */
  spawn(
    words: Uint8Array,
    env: Uint8Array,
    pidAt: number,
    fds: readonly number[],
    deathSignal: number,
    inSession?: boolean,
  ): number
  /**
   * See `startGuarded()`. `words` and `env` as for {@link spawn}. `standard` are numbers of any descriptors, which the program gets as 0, 1 and 2. Returns
   * the pids of program and guardian, and the descriptor that ends the guardian when it is closed.
   */
  spawnGuarded(
    words: Uint8Array,
    env: Uint8Array,
    standard: readonly number[],
  ): [pid: number, guardian: number, leash: number]
  /** See {@link EndGuard}. `marks` is a file of strings, each ended by NUL. Returns a descriptor: its end, with this process or by execve(), wakes the guardian. */
  killAtEnd(marks: number): number

  // execute.c
  /**
   * See `executeInstead()`. The new program has default signal handling, except for held signals, and 0, 1 and 2 in blocking mode. `words` and `env`
   * as for {@link spawn}. If the call that failed is `fchdir`, this process stays in the other folder.
   */
  execute(words: Uint8Array, env: Uint8Array, fds: readonly number[], first?: number): never

  // signals.c
  /**
   * Blocks signals (bit n - 1 is signal n) in the calling thread; other threads forward these signals to the calling thread. The signals stay pending, even across
   * {@link execute}. Throws if signals are held already.
   */
  holdSignals(signals: number): void
  /**
   * Unblocks the signals that {@link holdSignals} of this program, or of the one that it replaced, or preloaded.c holds, so that they are delivered.
   * Returns whether SIGTERM was blocked.
   */
  releaseSignals(): boolean

  // memory.c
  /**
   * Creates a memfd with MFD_ALLOW_SEALING, and with MFD_NOEXEC_SEAL if the kernel has it (then the file has SEAL_EXEC). If there is no memfd, or
   * seccomp refuses it, creates an unlinked temporary file, which cannot be sealed.
   */
  memfd(name: string): number
  addSeals(fd: number, seals: number): void
  /** As {@link addSeals}, in another thread: the kernel may wait for 150 ms. `fd` must stay open until the promise settles. */
  addSealsAside(fd: number, seals: number): Promise<void>
  getSeals(fd: number): number | null
  /** Opens the same memory read-only as a new open file description (through /proc/self/fd). */
  reopenReadOnly(fd: number): number
  /** `pread` and `pwrite` return the number of bytes. `pwrite` continues after short writes, and throws EPERM if the file is sealed. */
  pread(fd: number, into: Uint8Array, offset: number, length: number, position: number): number
  pwrite(fd: number, from: Uint8Array, offset: number, length: number, position: number): number
  fileSize(fd: number): number
  /** From now on each `pwrite` to the open file, by any process that has it, appends in one step, whatever position it names. */
  appendAlways(fd: number): void
  /** Frees the memory of whole pages in `[0, length)`, which then read as zeros; the size stays. Returns false if the file can have no holes. */
  freeStart(fd: number, length: number): boolean

  // sums.c
  /**
   * Adds the SHA-256 of each of `count` entries to the eight `lanes`, each modulo 2^32. The hash covers the lengths of section, key and value, and
   * their bytes. `ranges` has start and end of each key and value in the buffer (start, end, start, end); those of the next entry follow `stride` numbers
   * later.
   */
  addSums(
    lanes: Uint32Array,
    section: Uint8Array,
    buffer: Uint8Array,
    ranges: Uint32Array,
    count: number,
    stride: number,
  ): void

  // changes.c
  /**
   * Writes start and end of each encoded change of a record (Record in proto/state.proto) to `into`, beginning at offset `start` of the buffer, as long as
   * the next field of the record is a change, and `into` has room. Returns how many.
   */
  findChanges(buffer: Uint8Array, start: number, end: number, into: Uint32Array): number
  /**
   * Looks for consecutive records in frames, beginning at offset `start` of the buffer, that have one put each: all of one section, with a key of `mostKey`
   * bytes at most that is ASCII and not empty, in a record of `most` bytes at most, of this epoch, the first with this sequence number, each with a correct
   * checksum. Writes start and end of each change to `into`, as long as it has room; a record ends with its change. Returns how many.
   */
  findPuts(
    buffer: Uint8Array,
    start: number,
    end: number,
    epoch: number,
    sequence: number,
    most: number,
    mostKey: number,
    into: Uint32Array,
  ): number
  /**
   * Decodes `count` encoded changes of the state (Change in proto/state.proto) at the `ranges` of the buffer (start, end), from number `first` on. Writes 10
   * numbers for each: the number of puts of one section that begin with this change, or 1 for another kind; kind; version; start and end of section, key
   * and value; its sum (as SectionStore.printOf()). For a change that is invalid or rare, or whose key is empty, not ASCII or above `most` bytes, the first
   * number is 0 and the others are meaningless: the caller must decode it itself.
   */
  scanRuns(
    buffer: Uint8Array,
    ranges: Uint32Array,
    first: number,
    count: number,
    most: number,
    into: Uint32Array,
  ): void

  // keys.c
  /**
   * Creates an index from keys to numbers below 2^32 - 2 or null, which allocates `most` bytes at most, and is freed when it is garbage collected. Functions
   * that need more memory throw ENOMEM, without effect.
   */
  createKeys(most: number): KeyIndex
  /** Returns undefined if the index does not have the key. */
  getKey(index: KeyIndex, key: string): number | null | undefined
  /** Returns the value before. Throws a TypeError for half a surrogate pair. */
  setKey(index: KeyIndex, key: string, value: number | null): number | null | undefined
  deleteKey(index: KeyIndex, key: string): boolean
  /**
   * Sets the keys of `count` changes, from number `first` of {@link scanRuns} on and in this order, to `values`; 2^32 - 2 is null. Writes the values
   * before to `before`; 2^32 - 1 for a new key. Returns the number of keys that were set, at least 1: fewer than `count` if there is not enough memory.
   */
  setKeys(
    index: KeyIndex,
    buffer: Uint8Array,
    fields: Uint32Array,
    first: number,
    count: number,
    values: Uint32Array,
    before: Uint32Array,
  ): number
  /** Writes the values of the keys of `count` changes to `values`, as {@link setKeys} does. */
  findKeys(
    index: KeyIndex,
    buffer: Uint8Array,
    fields: Uint32Array,
    first: number,
    count: number,
    values: Uint32Array,
  ): void
  /**
   * Returns the keys of a part in insertion order, and their values: value and end of each key, and the bytes of all. An index of up to 16,384 keys has
   * one part, 0; one that has had more has 256. A key is in the part with the same number in all such indexes of a thread.
   */
  keysIn(index: KeyIndex, part: number): [entries: Uint32Array, bytes: Buffer]

  // tls.c
  /** From now on {@link madeTls} tells of the connections that this thread makes. Returns false if the process has no OpenSSL 3 that the addon can use. */
  beginTls(): boolean
  /** Returns the connection that OpenSSL has made for this thread since {@link beginTls}, or null if it was not exactly one. */
  madeTls(): TlsConnection | null
  /**
   * Encrypts bytes as the next ones of a connection; the next write of Node sends them. `finished` is the result of `tlsSocket.getFinished()`. Returns
   * false, without effect, if it is of another connection, or if this one is closed, ending or not ready.
   */
  writeTls(connection: TlsConnection, finished: Uint8Array, bytes: Uint8Array): boolean
  /**
   * Reports whether a record of the peer has arrived in part, or was not passed on yet. `finished`: as for {@link writeTls}. Returns null if it is of another connection, or if this
   * one is closed.
   */
  amidTlsRecord(connection: TlsConnection, finished: Uint8Array): boolean | null

  // key_update.c
  /**
   * Seals a KeyUpdate of TLS 1.3 as the record with number `sequence`, and replaces `secret` by the next one. `suite`: 0 to 2, in the order of `SUITES` in
   * key-schedule.ts. Returns false, with the same secret, if the process has no OpenSSL 3 that the addon can use.
   */
  sealKeyUpdate(suite: number, secret: Uint8Array, sequence: number, record: Uint8Array): boolean

  // threads.c
  /** Returns the processor time of the calling thread, in milliseconds. That of the process has also the threads in which V8 compiles and collects garbage. */
  threadCpuMs(): number

  // locks.c
  tryLock(fd: number): boolean
  /** open(O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW) with `mode`. */
  openLockFile(path: string, mode: number): number
  /**
   * Changes the lock of this open file description on bytes of a file (F_OFD_SETLK): kind 0 removes it, 1 shares it, 2 excludes all others. Returns false,
   * and changes nothing, if another description has a lock there. Throws EINVAL (Linux before 3.15) or ENOSYS if the system has no such locks.
   */
  lockRange(fd: number, kind: 0 | 1 | 2, start: number, length: number): boolean
  /** Returns start and end of a lock of another open file description with which {@link lockRange} would conflict; null if there is none. */
  findLock(fd: number, kind: 1 | 2, start: number, length: number): [start: number, end: number] | null

  // inotify.c
  /** Returns a descriptor that becomes readable when the folder or one of the files changes, or null: see `watchPaths()` in watch.ts. */
  watchPaths(folder: string, files: readonly string[]): number | null

  // poll.c
  /** Sets O_NONBLOCK, for all processes that share the file. With `shared` a socket that blocks stays so. */
  createPoll(
    fd: number,
    callback: (events: number, error: NativeError | null) => void,
    shared?: boolean,
  ): Poll
  watchPauses(ms: number, callback: (pausedMs: number) => void): Pick<Poll, 'close'>

  /**
   * Calls `callback` when this process gets the signal (by number), before the program's listeners. `own`: 1 if only this process has sent
   * it, else 0. Until `close()` the signal has no default action. Does not keep the process alive.
   */
  watchSignal(signal: number, callback: (own: number) => void): NativeSignalWatch

  /** Returns the number of descriptors that this environment has opened or adopted, and not closed or released. */
  openCount(): number
}

let missing: unknown = null

/** Without an addon each call throws, so that the library can be imported everywhere. */
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
