import type { BindOptions, Inspected, Native } from '../../../src/kernel/native.js'
import type { SimulatedProcess } from '../process.js'
import { at } from '../world.js'
import { children } from './families.js'
import {
  type Credentials,
  File,
  fail,
  growTo,
  Inode,
  Listener,
  type Open,
  Pidfd,
  type SimulatedPoll,
  type Stream,
  UID,
} from './objects.js'

const SEAL_SHRINK = 2
const SEAL_GROW = 4
const SEAL_WRITE = 8
const SEAL_SEAL = 1
const SEAL_NAMES: Readonly<Record<number, string>> = {
  [SEAL_SEAL]: 'SEAL',
  [SEAL_SHRINK]: 'SHRINK',
  [SEAL_GROW]: 'GROW',
  [SEAL_WRITE]: 'WRITE',
}

/** The functions of the addon that only compute: the simulation uses the real ones. */
export const COMPUTED = [
  'addSums',
  'createKeys',
  'deleteKey',
  'findChanges',
  'findKeys',
  'findPuts',
  'getKey',
  'keysIn',
  'scanRuns',
  'sealKeyUpdate',
  'setKey',
  'setKeys',
] as const
export type Computed = Pick<Native, (typeof COMPUTED)[number]>

const kernel = () => at.p.world.kernel

function get(fd: number, syscall: string): Open {
  return at.p.fds.get(fd) ?? fail('EBADF', syscall)
}

function openOf(p: SimulatedProcess, fd: number): Open {
  return p.fds.get(fd) ?? fail('EBADF', 'pidfd_getfd')
}

function asStream(fd: number, syscall: string, listening: string): Stream {
  const open = get(fd, syscall)
  if (open.kind === 'stream') return open as Stream
  return fail(open.kind === 'listener' ? listening : 'ENOTSOCK', syscall)
}

/** Gives the process the lowest free number for an open file description. */
export function put(open: Open): number {
  let fd = 3
  while (at.p.fds.has(fd)) fd++
  at.p.fds.set(fd, kernel().hold(open))
  return fd
}

export function closeFd(fd: number): void {
  const open = get(fd, 'close')
  at.p.fds.delete(fd)
  kernel().drop(open)
}

function me(): Credentials {
  return { pid: at.p.pid, uid: UID, gid: UID, process: at.p }
}

/** Takes descriptors out of a message into the table of the process. */
function take(fds: Open[] | null): number[] | null {
  if (fds === null) return null
  return fds.map(open => {
    open.count--
    return put(open)
  })
}

function connectTo(listener: Listener | undefined, missing: string): number {
  if (listener === undefined) return fail(missing, 'connect')
  if (listener.queue.length > listener.backlog) return fail('EAGAIN', 'connect')
  const [mine, theirs] = kernel().pair(me(), listener.owner, listener.tcp)
  listener.queue.push(kernel().hold(theirs))
  listener.wake()
  return put(mine)
}

function connectUnix(path: string, missing: string): number {
  const inode = kernel().names.get(path)
  return connectTo(inode?.listener ?? undefined, inode === undefined ? missing : 'ECONNREFUSED')
}

/** Opens a connection to an address of a client; the addon's own call connects later, and is not simulated. */
export function connectTcpNow(host: string, port: number): number {
  at.p.world.enter(at.p, 'connectTcp')
  return connectTo(kernel().addresses.receiver(`${host}:${port}`), 'ECONNREFUSED')
}

function bindTcp({ host, port = 0, backlog, reuseAddr = false, reusePort = false }: BindOptions): Listener {
  const { addresses } = kernel()
  const own = { address: host, port: port === 0 ? addresses.freePort(host) : port, owner: me() }
  const inode = new Inode('socket', `tcp:${host}:${own.port}`)
  const listener = new Listener(inode, {
    ...own,
    tcp: true,
    backlog: 0,
    listens: false,
    reuseAddr,
    reusePort,
  })
  addresses.bind(listener)
  if (backlog === undefined) return listener
  try {
    addresses.listen(listener, backlog)
  } catch (error) {
    addresses.release(listener)
    throw error
  }
  return listener
}

function bindUnix({ host, abstract = false, mode = 0o755, backlog = 0 }: BindOptions): Listener {
  const path = abstract ? `\0${host}` : host
  const present = kernel().names.get(path)
  if (present?.listener || (!abstract && present)) fail('EADDRINUSE', 'bind')
  const inode = new Inode('socket', path, mode)
  const listener = new Listener(inode, { address: host, port: 0, tcp: false, backlog, owner: me() })
  inode.listener = listener
  kernel().names.set(path, inode)
  return listener
}

const sockets: Partial<Native> = {
  bindSocket: options => put(options.kind === 'unix' ? bindUnix(options) : bindTcp(options)),
  listen(fd, backlog) {
    const socket = get(fd, 'listen') as Listener
    if (socket.tcp) kernel().addresses.listen(socket, backlog)
    Object.assign(socket, { backlog, owner: me() })
  },
  connectUnix: (path, abstract) =>
    abstract ? connectUnix(`\0${path}`, 'ECONNREFUSED') : connectUnix(path, 'ENOENT'),
  accept(fd) {
    const open = get(fd, 'accept')
    if (open.kind !== 'listener') return fail(open.kind === 'stream' ? 'EINVAL' : 'ENOTSOCK', 'accept')
    const { queue, listens } = open as Listener
    if (!listens) fail('EINVAL', 'accept')
    const [end] = queue.splice(0, 1)
    return end === undefined ? -1 : take([end])![0]!
  },
  socketPair() {
    const [a, b] = kernel().pair(me(), me())
    return [put(a), put(b)]
  },
  setOption(fd, option, value) {
    const open = get(fd, 'setsockopt')
    if (open.kind === 'listener' && (option === 'reuseAddr' || option === 'reusePort'))
      (open as Listener)[option] = value
  },
  sendMessage(fd, data, offset, length, fds) {
    const open = get(fd, 'sendmsg')
    if (open.kind !== 'stream' && open.kind !== 'listener') fail('ENOTSOCK', 'sendmsg')
    const sent = fds === null || fds.length === 0 ? null : fds.map(each => get(each, 'sendmsg'))
    const { peer, ended } = asStream(fd, 'sendmsg', 'ENOTCONN')
    if (peer === null || ended) return fail('EPIPE', 'sendmsg')
    const room = kernel().buffer - peer.receivedBytes
    if (room <= 0) return -1
    const bytes = at.p.world.part(Math.min(length, room), 'sendMessage')
    for (const each of sent ?? []) kernel().hold(each)
    peer.received.push({ bytes: Buffer.from(data.subarray(offset, offset + bytes)), fds: sent })
    peer.receivedBytes += bytes
    peer.wake()
    return bytes
  },
  receiveMessage(fd, into, offset, length) {
    const open = asStream(fd, 'recvmsg', 'EINVAL')
    if (open.received.length === 0) {
      if (open.reset) {
        open.reset = false
        return fail('ECONNRESET', 'recvmsg')
      }
      return { bytes: open.peer === null || open.peer.ended ? 0 : -1, fds: null, truncated: false }
    }
    // As Linux: one read joins what was sent separately, and stops after descriptors.
    const most = at.p.world.part(length, 'receiveMessage')
    let bytes = 0
    let fds: number[] | null = null
    while (bytes < most && open.received.length > 0 && fds === null) {
      const first = open.received[0]!
      const part = first.bytes.subarray(0, most - bytes)
      into.set(part, offset + bytes)
      bytes += part.length
      fds = take(first.fds)
      first.fds = null
      first.bytes = first.bytes.subarray(part.length)
      if (first.bytes.length === 0) open.received.shift()
    }
    open.receivedBytes -= bytes
    open.peer?.wake()
    if (fds !== null && at.p.world.tap?.truncates() === true) {
      for (const each of fds) closeFd(each)
      return { bytes, fds: null, truncated: true }
    }
    return { bytes, fds, truncated: false }
  },
  shutDown(fd) {
    const open = get(fd, 'shutdown')
    if (open.kind === 'listener') return
    const stream = asStream(fd, 'shutdown', 'ENOTCONN')
    stream.ended = true
    stream.peer?.wake()
  },
  resetAtClose() {},
  stopReceiving(fd) {
    const { received } = asStream(fd, 'shutdown', 'ENOTCONN')
    return received.every(({ fds }) => fds === null)
  },
  unreadBytes: fd => (get(fd, 'ioctl') as Stream).peer?.receivedBytes ?? 0,
  firstNotStream: fds => fds.findIndex(fd => get(fd, 'getsockopt').kind !== 'stream'),
  hangups: fds =>
    fds.map(fd => {
      const { peer, reset } = get(fd, 'poll') as Stream
      return reset ? 2 : peer === null || peer.ended ? 1 : 0
    }),
}

const descriptors: Partial<Native> = {
  dup: fd => put(get(fd, 'dup')),
  makeRoom: () => Promise.resolve(),
  threadCpuMs: () => 0,
  close: closeFd,
  closeMany(fds) {
    for (const fd of fds) closeFd(fd)
  },
  closeAside(_lane, fds) {
    for (const fd of fds) closeFd(fd)
  },
  closingAside: () => 0,
  release() {},
  adopt() {},
  setCloexec() {},
  setBlocking() {},
  inspect: fds => fds.map(fd => inspected(get(fd, 'fstat'))),
  openCount: () => at.p.fds.size,
}

const others = new WeakMap<Open, number>()
let lastOther = 2_000_000

export function inspected(open: Open): Inspected {
  if (open.kind === 'pidfd')
    return { type: 'anon', dev: '7', ino: String(1_000_000 + (open as Pidfd).target.pid) }
  if (open.kind === 'file') return { type: 'file', dev: '7', ino: String(open.inode!.ino) }
  if (open.kind === 'other') {
    if (!others.has(open)) others.set(open, ++lastOther)
    return { type: 'fifo', dev: '7', ino: String(others.get(open)) }
  }
  const listener = open.kind === 'listener' ? (open as Listener) : null
  const ino = String(listener?.inode?.ino ?? (open as Stream).ino)
  const tcp = listener?.tcp ?? (open as Stream).tcp
  return {
    type: 'socket',
    dev: '7',
    ino,
    family: tcp ? 'inet' : 'unix',
    socketType: 'stream',
    protocol: tcp ? 6 : 0,
    accepting: listener?.listens ?? false,
    cookie: ino,
    address: listener?.address ?? '',
    ...(listener !== null && { port: listener.port }),
    abstract: false,
    reusePort: listener?.reusePort ?? false,
    reuseAddr: listener?.reuseAddr ?? true,
    ipv6Only: false,
  }
}

const processes: Partial<Native> = {
  peerCredentials(fd) {
    const { pid, uid, gid } = (get(fd, 'getsockopt') as Stream).peerIs ?? me()
    return { pid, uid, gid }
  },
  peerPidfd: fd => put(new Pidfd((get(fd, 'getsockopt') as Stream).peerIs.process)),
  pidfdOpen(pid) {
    const target = kernel().world.processes.get(pid)
    return target === undefined ? fail('ESRCH', 'pidfd_open') : put(new Pidfd(target))
  },
  pidfdSignal(fd, signal) {
    const { target } = get(fd, 'pidfd_send_signal') as Pidfd
    if (target.dead && !target.isZombie) fail('ESRCH', 'pidfd_send_signal')
    kernel().world.send(target, signal)
  },
  pidfdPid(fd) {
    const open = get(fd, 'pidfd')
    if (open.kind !== 'pidfd') return fail('EINVAL', 'pidfd')
    const { target } = open as Pidfd
    return target.dead && !target.isZombie ? -1 : target.pid
  },
  pidfdDead: fd => (get(fd, 'poll') as Pidfd).target.dead,
  pidfdTake(fd, number) {
    const { target } = get(fd, 'pidfd_getfd') as Pidfd
    if (target.dead) fail('ESRCH', 'pidfd_getfd')
    const isOutput = number === 1 || number === 2
    return put(isOutput ? new File(new Inode('file', '/dev/null'), true) : openOf(target, number))
  },
  openStarter: () => false,
  closeStarter() {},
  startsApart: () => false,
  releaseSignals: () => false,
}

export function asFile(fd: number, syscall: string, other: string): File {
  const open = get(fd, syscall)
  return open.kind === 'file' ? (open as File) : fail(other, syscall)
}

/** Reads at a position. */
export function readFrom(file: File, into: Uint8Array, position: number): number {
  const { inode, readable } = file
  if (!readable) fail('EBADF', 'pread')
  if (inode.type === 'dir') fail('EISDIR', 'pread')
  const bytes = Math.max(0, Math.min(into.length, inode.size - position))
  into.set(inode.data.subarray(position, position + bytes))
  return bytes
}

/** Writes at a position, and grows the file. Returns the number of bytes written. */
export function writeInto({ inode, writable }: File, bytes: Uint8Array, at: number): number {
  const position = inode.appends ? inode.size : at
  if (!writable) fail('EBADF', 'pwrite')
  if (inode.onDisk) return kernel().disk.write(inode, bytes, position)
  if (inode.seals & SEAL_WRITE || (inode.seals & SEAL_GROW && position + bytes.length > inode.size))
    fail('EPERM', 'pwrite')
  const count = kernel().world.tap?.part(bytes.length, 'pwrite') ?? bytes.length
  growTo(inode, position + count)
  inode.data.set(bytes.subarray(0, count), position)
  return count
}

const memory: Partial<Native> = {
  memfd(name) {
    const inode = new Inode('file', name)
    inode.sealable = true
    return put(new File(inode, true))
  },
  addSeals(fd, seals) {
    const { inode, writable } = asFile(fd, 'fcntl', 'EINVAL')
    if (!writable) fail('EPERM', 'fcntl')
    if (!inode.sealable) fail('EINVAL', 'fcntl')
    if (inode.seals & SEAL_SEAL) fail('EPERM', 'fcntl')
    inode.seals |= seals
    const names = Object.keys(SEAL_NAMES).filter(bit => seals & Number(bit))
    at.p.world.note(at.p, `seals ${inode.name}: ${names.map(bit => SEAL_NAMES[Number(bit)])}`)
  },
  async addSealsAside(fd, seals) {
    memory.addSeals!(fd, seals)
  },
  getSeals(fd) {
    const { inode } = get(fd, 'fcntl')
    return inode?.sealable ? inode.seals : null
  },
  reopenReadOnly: fd => put(new File(asFile(fd, 'open', 'ENXIO').inode, false)),
  pread: (fd, into, offset, length, position) =>
    readFrom(asFile(fd, 'pread', 'ESPIPE'), into.subarray(offset, offset + length), position),
  pwrite: (fd, from, offset, length, position) =>
    writeInto(asFile(fd, 'pwrite', 'ESPIPE'), from.subarray(offset, offset + length), position),
  appendAlways(fd) {
    asFile(fd, 'fcntl', 'EINVAL').inode.appends = true
  },
  freeStart: () => false,
  fileSize: fd => get(fd, 'fstat').inode?.size ?? 0,
  tryLock(fd) {
    const open = get(fd, 'flock')
    if (open.kind !== 'file') return true
    const { inode } = open as File
    inode.locker ??= open
    return inode.locker === open
  },
  openLockFile(path, mode) {
    const inode = kernel().names.get(path) ?? new Inode('file', path, mode)
    kernel().names.set(path, inode)
    return put(new File(inode, true))
  },
}

const watches: Partial<Native> = {
  watchPaths: () => null,
  createPoll(fd, callback) {
    const { p } = at
    const open = get(fd, 'epoll_ctl')
    const poll: SimulatedPoll = {
      process: p,
      open,
      events: 0,
      isHeld: true,
      callback: callback as SimulatedPoll['callback'],
    }
    p.polls.add(poll)
    open.polls.add(poll)
    const set = (events: number) => {
      poll.events = events
      p.mayRun()
    }
    return {
      start: set,
      stop: () => set(0),
      close() {
        p.polls.delete(poll)
        open.polls.delete(poll)
      },
      ref() {
        poll.isHeld = true
      },
      unref() {
        poll.isHeld = false
      },
    }
  },
  // A uv_check, which runs after the polls of each turn.
  watchPauses(ms, callback) {
    const { p } = at
    const own = { ms, callback }
    p.pauses.add(own)
    return { close: () => void p.pauses.delete(own) }
  },
  watchSignal: () => ({ close() {}, undelivered: () => 0 }),
}

/** The functions of the addon, for the process that runs now. */
export function simulatedAddon(computed: Computed): Partial<Native> {
  const computing = Object.fromEntries(COMPUTED.map(name => [name, computed[name]]))
  return { ...sockets, ...descriptors, ...processes, ...children, ...memory, ...watches, ...computing }
}
