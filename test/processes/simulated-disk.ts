const SECTOR = 512

/** A call to a disk, as `disk-recorder.c` writes it, or as the simulated kernel makes it. */
export type DiskEvent =
  | { kind: 'write'; inode: number; at: number; bytes: Buffer }
  | { kind: 'truncate'; inode: number; size: number }
  | { kind: 'sync' | 'folder'; inode: number }
  /** The inode gets a name, and at the same moment loses `from`, if that is given. */
  | { kind: 'name'; inode: number; name: string; from?: string }
  | { kind: 'unlink'; name: string }

export function eventsOf(text: string): DiskEvent[] {
  return text
    .trim()
    .split('\n')
    .map((line): DiskEvent => {
      const [kind, first, second, third = ''] = line.split(' ') as [
        DiskEvent['kind'],
        string,
        string,
        string?,
      ]
      const inode = Number(first)
      switch (kind) {
        case 'write':
          return { kind, inode, at: Number(second), bytes: Buffer.from(third, 'hex') }
        case 'truncate':
          return { kind, inode, size: Number(second) }
        case 'name':
          return { kind, inode, name: second }
        case 'unlink':
          return { kind, name: second }
        default:
          return { kind, inode }
      }
    })
}

type Change = Extract<DiskEvent, { kind: 'write' | 'truncate' }>
type Naming = Extract<DiskEvent, { kind: 'name' | 'unlink' }>

/** The part of the unsynced writes that reached the disk. */
export interface Fate {
  /** How many of the first `count` changes of names, or of lengths, the disk has. */
  upTo(count: number): number
  /** This sector of a write is on the disk. */
  has(): boolean
}

/** A file that a power cut has left. Files with several names have the same inode. */
export interface Survivor {
  readonly name: string
  readonly inode: number
  readonly bytes: Buffer
}

const EVERYTHING: Fate = { upTo: count => count, has: () => true }

/** A disk that keeps what was synced for sure, and of the rest what a fate says. */
export class SimulatedDisk {
  readonly #synced = new Map<number, Buffer>()
  readonly #pending = new Map<number, Change[]>()
  readonly #names = new Map<string, number>()
  #naming: Naming[] = []

  add(event: DiskEvent): void {
    switch (event.kind) {
      case 'write':
      case 'truncate':
        this.#pendingOf(event.inode).push(event)
        return
      case 'sync':
        this.#settle(event.inode, EVERYTHING)
        return
      case 'folder':
        for (const naming of this.#naming) apply(this.#names, naming)
        this.#naming = []
        return
      case 'name':
      case 'unlink':
        this.#naming.push(event)
    }
  }

  /** A sync fails: the kernel forgets the unsynced writes, and of them the disk has what a fate says, for good. Returns the content on the disk. */
  forget(inode: number, fate: Fate): Buffer {
    return this.#settle(inode, fate)
  }

  /** Changes bits of a byte, synced or not. */
  flip(inode: number, at: number, bits: number): void {
    const synced = this.#synced.get(inode)
    if (synced !== undefined && at < synced.length) synced[at]! ^= bits
    for (const change of this.#pending.get(inode) ?? [])
      if (change.kind === 'write' && at >= change.at && at < endOf(change))
        change.bytes[at - change.at]! ^= bits
  }

  /** The content of a name after a power cut; null without such a file. */
  after(name: string, fate: Fate): Buffer | null {
    const inode = this.#namesAfter(fate).get(name)
    return inode === undefined ? null : this.#contents(inode, fate)
  }

  /** All files after a power cut. */
  survivors(fate: Fate): Survivor[] {
    const names = [...this.#namesAfter(fate)]
    const inodes = new Set(names.map(([, inode]) => inode))
    const contents = new Map([...inodes].map(inode => [inode, this.#contents(inode, fate)]))
    return names.map(([name, inode]) => ({ name, inode, bytes: contents.get(inode)! }))
  }

  #namesAfter(fate: Fate): Map<string, number> {
    const names = new Map(this.#names)
    for (const naming of this.#naming.slice(0, fate.upTo(this.#naming.length))) apply(names, naming)
    return names
  }

  #settle(inode: number, fate: Fate): Buffer {
    const bytes = this.#contents(inode, fate)
    this.#synced.set(inode, bytes)
    this.#pending.delete(inode)
    return bytes
  }

  #pendingOf(inode: number): Change[] {
    let pending = this.#pending.get(inode)
    if (pending === undefined) this.#pending.set(inode, (pending = []))
    return pending
  }

  /** Lengths change in their order; of each sector the disk has any of the writes to it, or none. */
  #contents(inode: number, fate: Fate): Buffer {
    const before = this.#synced.get(inode) ?? Buffer.alloc(0)
    const pending = this.#pending.get(inode) ?? []
    const reached = pending.slice(0, fate.upTo(pending.length))
    let size = before.length
    let bytes = Buffer.concat([before, Buffer.alloc(Math.max(0, ...pending.map(endOf)))])
    for (const change of reached) {
      if (change.kind === 'truncate') {
        size = change.size
        bytes = Buffer.concat([bytes.subarray(0, size), Buffer.alloc(bytes.length - size)])
        continue
      }
      const { at, bytes: written } = change
      const end = at + written.length
      size = Math.max(size, end)
      for (let from = at; from < end; ) {
        const to = Math.min(end, (Math.floor(from / SECTOR) + 1) * SECTOR)
        if (fate.has()) written.copy(bytes, from, from - at, to - at)
        from = to
      }
    }
    return bytes.subarray(0, size)
  }
}

function endOf(change: Change): number {
  return change.kind === 'truncate' ? change.size : change.at + change.bytes.length
}

function apply(names: Map<string, number>, naming: Naming): void {
  if (naming.kind === 'unlink') names.delete(naming.name)
  else {
    names.set(naming.name, naming.inode)
    if (naming.from !== undefined) names.delete(naming.from)
  }
}
