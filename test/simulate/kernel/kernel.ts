import type { Survivor } from '../../processes/simulated-disk.js'
import type { World } from '../world.js'
import { Addresses } from './addresses.js'
import { NODE } from './children.js'
import { DISK, Disk } from './disk.js'
import { MemoryGroup } from './memory-group.js'
import { type Credentials, Inode, type Listener, type Open, type Pidfd, Stream } from './objects.js'

/** Bytes that wait in one direction of a socket. */
export const USUAL_BUFFER = 208 * 1024

const READABLE = 1
const WRITABLE = 2
const DISCONNECT = 4

/** The file tree, and the connections between descriptors, of one world. */
export class Kernel {
  readonly world: World
  /** Files, folders, sockets by path; abstract names begin with NUL. */
  readonly names = new Map<string, Inode>()
  /** Sockets hold this many bytes: a small number lets buffers fill. */
  buffer = USUAL_BUFFER
  readonly disk: Disk
  readonly addresses: Addresses
  readonly memory: MemoryGroup

  constructor(world: World) {
    this.world = world
    this.addresses = new Addresses(world)
    this.disk = new Disk(world)
    this.memory = new MemoryGroup(world)
    this.#makeFolders()
  }

  #makeFolders(): void {
    for (const path of ['/', '/tmp', '/usr', '/usr/bin', '/run', '/run/shop', '/var', '/var/lib', DISK])
      this.names.set(path, new Inode('dir', path, 0o700))
    this.names.get(DISK)!.onDisk = true
    this.names.set(NODE, new Inode('file', NODE, 0o755))
  }

  /** After a power cut the tree has only what the disk has kept. All processes of the machine must be dead. */
  restart(): void {
    this.boot(this.disk.survivors())
  }

  /** Begins with these files on the disk. */
  boot(survivors: readonly Survivor[]): void {
    this.names.clear()
    this.#makeFolders()
    for (const [path, inode] of this.disk.load(survivors)) this.names.set(path, inode)
  }

  /** The connections that waited in the queues of TCP listeners when their last descriptors were closed, by a process that was killed or not. */
  readonly resets: { readonly at: number; readonly count: number; readonly killed: boolean }[] = []

  hold<T extends Open>(open: T): T {
    open.count++
    return open
  }

  /** Removes one reference; the last one closes. `killed`: the process has not closed it. */
  drop(open: Open, killed = false): void {
    if (--open.count > 0) return
    if (open.inode?.locker === open) open.inode.locker = null
    if (open.kind === 'stream') this.#closeStream(open as Stream)
    else if (open.kind === 'listener') this.#closeListener(open as Listener, killed)
  }

  #closeStream(open: Stream): void {
    const { peer } = open
    if (peer !== null) {
      peer.reset ||= open.received.length > 0
      peer.peer = null
      peer.wake()
    }
    open.peer = null
    for (const { fds } of open.received.splice(0)) for (const fd of fds ?? []) this.drop(fd)
  }

  #closeListener(open: Listener, killed: boolean): void {
    if (open.inode?.listener === open) open.inode.listener = null
    if (open.tcp) {
      this.addresses.release(open)
      if (open.queue.length > 0) this.resets.push({ at: this.world.now, count: open.queue.length, killed })
    }
    for (const end of open.queue.splice(0)) {
      if (end.peer !== null) end.peer.reset = true
      this.drop(end)
    }
  }

  /** Breaks a connection at both ends, as a network does; a Unix socket breaks only with a process. */
  breakConnection(open: Stream): void {
    const { peer } = open
    if (peer === null) return
    for (const end of [open, peer]) {
      end.reset = true
      end.peer = null
      end.wake()
    }
  }

  pair(one: Credentials, other: Credentials, tcp = false): [Stream, Stream] {
    const ends: [Stream, Stream] = [new Stream(other, tcp), new Stream(one, tcp)]
    ends[0].peer = ends[1]
    ends[1].peer = ends[0]
    return ends
  }

  /** The events of `events` for which a poll of `open` would be called now. */
  ready(open: Open, events: number): number {
    switch (open.kind) {
      case 'stream': {
        const { received, peer, reset } = open as Stream
        const readable = received.length > 0 || peer === null || peer.ended || reset ? READABLE : 0
        const disconnected = peer === null || peer.ended ? DISCONNECT : 0
        const writable = peer === null || peer.receivedBytes < this.buffer ? WRITABLE : 0
        return events & (readable | writable | disconnected)
      }
      case 'listener':
        return (open as Listener).queue.length > 0 ? events & READABLE : 0
      case 'pidfd':
        return (open as Pidfd).target.dead ? events & READABLE : 0
      default:
        return events
    }
  }
}
