import { type Fate, SimulatedDisk, type Survivor } from '../../processes/simulated-disk.js'
import type { World } from '../world.js'
import { fail, growTo, Inode } from './objects.js'

/** The folder whose files outlive power cuts. */
export const DISK = '/var/lib/shop'

/** A disk that does badly, until a time of the world. */
export interface Trouble {
  /** `EIO`: calls fail. `unsynced`: only syncs fail, as writes reach the memory. `full`: there is room for so many bytes. `slow`: calls take up to so many milliseconds. `stuck`: calls take until the end. */
  readonly how: 'EIO' | 'unsynced' | 'full' | 'slow' | 'stuck'
  readonly until: number
  /** The share of calls that fail, bytes of room (`full`), milliseconds (`slow`). */
  readonly much: number
}

/** Milliseconds until a call of another thread takes effect, and until its process hears of that. */
export interface Delays {
  readonly begin: number
  readonly end: number
}

const CALL_MS = 0.3
const SYNC_MS = 3
const SLOW_SYNC_MS = 40
const MUCH_ROOM = 1e12

/** The disk of a world: what its files have for readers is in their inodes, what a power cut leaves of it is here. */
export class Disk {
  readonly #world: World
  #kept = new SimulatedDisk()
  /** All files that ever were on the disk: a power cut can undo the end of one. */
  readonly #inodes = new Map<number, Inode>()
  #trouble: Trouble | null = null
  #room = MUCH_ROOM
  /** Called after each change of a name. */
  onNamed: () => void = () => {}

  constructor(world: World) {
    this.#world = world
  }

  set trouble(trouble: Trouble) {
    this.#trouble = trouble
    this.#room = trouble.how === 'full' ? trouble.much : MUCH_ROOM
  }

  /** Whether the disk does badly now. */
  get troubled(): boolean {
    return this.#present !== null
  }

  /** Bytes that are free. */
  get room(): number {
    return this.#present?.how === 'full' ? Math.max(0, this.#room) : MUCH_ROOM
  }

  get #present(): Trouble | null {
    return this.#trouble !== null && this.#world.now < this.#trouble.until ? this.#trouble : null
  }

  /** How long a call takes in another thread. */
  delays(isSync: boolean): Delays {
    const world = this.#world
    const trouble = this.#present
    let most = isSync ? (world.below(20) === 0 ? SLOW_SYNC_MS : SYNC_MS) : CALL_MS
    if (trouble?.how === 'slow') most += trouble.much
    const all =
      trouble?.how === 'stuck' ? trouble.until - world.now + world.random() * SYNC_MS : world.random() * most
    const begin = world.random() * all
    return { begin, end: all - begin }
  }

  /** Whether a process that calls without another thread must wait. */
  get isSlow(): boolean {
    const how = this.#present?.how
    return how === 'slow' || how === 'stuck'
  }

  write(inode: Inode, bytes: Uint8Array, at: number): number {
    this.#mayFail('write')
    const grows = Math.max(0, at + bytes.length - inode.size)
    let count = Math.min(bytes.length, bytes.length - grows + this.room)
    if (count <= 0) return fail('ENOSPC', 'write')
    count = this.#world.part(count, 'write')
    const written = Buffer.from(bytes.subarray(0, count))
    this.#room -= Math.max(0, at + count - inode.size)
    this.#kept.add({ kind: 'write', inode: inode.ino, at, bytes: written })
    growTo(inode, at + count)
    inode.data.set(written, at)
    inode.mtimeMs = this.#world.wallClock
    return count
  }

  truncate(inode: Inode, size: number): void {
    this.#mayFail('ftruncate')
    this.#room += inode.size - size
    this.#kept.add({ kind: 'truncate', inode: inode.ino, size })
    growTo(inode, size)
    inode.data.fill(0, size)
    inode.size = size
  }

  /** After a failed sync the kernel keeps the pages as if they were written, or drops them: readers then see what is on the disk. */
  sync(inode: Inode): void {
    if (inode.type === 'dir') {
      this.#mayFail('fsync')
      this.#kept.add({ kind: 'folder', inode: inode.ino })
      return
    }
    if (!this.#fails('EIO', 'unsynced')) {
      this.#kept.add({ kind: 'sync', inode: inode.ino })
      return
    }
    const kept = this.#kept.forget(inode.ino, this.fate())
    if (this.#world.below(2) === 0) {
      inode.data.fill(0, 0, inode.size)
      inode.data.set(kept.subarray(0, inode.size))
    }
    fail('EIO', 'fsync')
  }

  /** A new file needs room in its folder. */
  create(path: string, inode: Inode): void {
    this.#mayFail('open')
    if (this.room === 0) fail('ENOSPC', 'open')
    inode.onDisk = true
    this.#inodes.set(inode.ino, inode)
    this.#kept.add({ kind: 'name', inode: inode.ino, name: path })
  }

  /** Gives a file a name; `from` is the name that it loses at the same moment. */
  name(path: string, inode: Inode, from?: string): void {
    this.#mayFail(from === undefined ? 'link' : 'rename')
    this.#kept.add({ kind: 'name', inode: inode.ino, name: path, ...(from !== undefined && { from }) })
    this.onNamed()
  }

  unlink(path: string, inode: Inode): void {
    this.#mayFail('unlink')
    this.#room += inode.size
    this.#kept.add({ kind: 'unlink', name: path })
  }

  /** Changes bits of a byte, as a bad disk does. */
  flip(inode: Inode, at: number, bits: number): void {
    inode.data[at]! ^= bits
    this.#kept.flip(inode.ino, at, bits)
  }

  /** Chooses what of the unsynced writes a power cut leaves. */
  fate(): Fate {
    const world = this.#world
    const likely = [0, 50, 90, 100][world.below(4)]!
    return {
      upTo: count => [0, count, world.below(count + 1)][world.below(3)]!,
      has: () => world.below(100) < likely,
    }
  }

  survivors(): Survivor[] {
    return this.#kept.survivors(this.fate())
  }

  /** Begins with the files that a power cut has left. Returns them by their names. */
  load(survivors: readonly Survivor[]): Map<string, Inode> {
    this.#kept = new SimulatedDisk()
    const inodes = new Map<number, Inode>()
    const names = new Map<string, Inode>()
    for (const { name, inode: number, bytes } of survivors) {
      const inode = inodes.get(number) ?? new Inode('file', name, this.#inodes.get(number)?.mode)
      if (!inodes.has(number)) {
        inodes.set(number, inode)
        inode.onDisk = true
        growTo(inode, bytes.length)
        inode.data.set(bytes)
        this.#kept.add({ kind: 'write', inode: inode.ino, at: 0, bytes: Buffer.from(bytes) })
        this.#kept.add({ kind: 'sync', inode: inode.ino })
      }
      names.set(name, inode)
      this.#kept.add({ kind: 'name', inode: inode.ino, name })
    }
    this.#kept.add({ kind: 'folder', inode: 0 })
    this.#inodes.clear()
    for (const inode of inodes.values()) this.#inodes.set(inode.ino, inode)
    return names
  }

  #fails(...hows: Trouble['how'][]): boolean {
    const trouble = this.#present
    return trouble !== null && hows.includes(trouble.how) && this.#world.random() < trouble.much
  }

  #mayFail(syscall: string): void {
    if (this.#fails('EIO')) fail('EIO', syscall)
  }
}
