import {
  closeOnThrow,
  inspectOne,
  lockBytes,
  lockedBytes,
  type OwnedFd,
  openLockFile,
} from '../kernel/index.js'
import { slotBytesOf } from './server-slots.js'

/** The bytes for the locks of one socket. */
const RANGE = 2 ** 20

/** An exclusive lock on one byte of the range. */
interface HeldByte {
  readonly fd: OwnedFd
  readonly at: number
}

/**
 * The right to read from a UDP socket that several versions have. Each version that reads, or has flows of the socket, has a lock on a byte of a common
 * file, and so have the flows that are on their way from it to another version. One more byte is locked by the version that reads. The version that serves
 * begins to read when nothing else has a lock; until then the version that read before reads on. The kernel ends the lock with the last descriptor,
 * whatever happens to a process.
 */
export class FrontTurn {
  readonly #path: string
  readonly #base: number
  #own: HeldByte | null = null
  /** The descriptors of flows on their way are duplicates of this one. */
  #transit: HeldByte | null = null
  /** The byte of the last flows that have left. */
  #left = -1

  /** `path`: of the common file. Borrows the UDP socket for the call. */
  constructor(path: string, service: string, socket: OwnedFd) {
    const { dev, ino } = inspectOne(socket)
    this.#path = path
    this.#base = slotBytesOf(`${service} udp ${dev} ${ino}`)
  }

  /** Throws if the file cannot be opened, or the system has no locks on bytes. */
  hold(): void {
    this.#own ??= this.#lock()
  }

  #lock(): HeldByte {
    const fd = openLockFile(this.#path, 0o600, 'turn of a UDP listener')
    return closeOnThrow([fd], () => {
      for (;;) {
        const at = this.#base + Math.floor(Math.random() * RANGE)
        if (lockBytes(fd, 'exclusive', at)) return { fd, at }
      }
    })
  }

  /** Reports whether no other version reads or has flows, and no flow is on its way. */
  get isAlone(): boolean {
    return this.#own !== null && lockedBytes(this.#own.fd, this.#base, RANGE) === null
  }

  /** Reports whether at most one other version reads or has flows: the one that serves. The flows of this version that are on their way do not count. */
  get isLast(): boolean {
    return this.#count(this.#base, this.#base + RANGE) - (this.inTransit ? 1 : 0) <= 1
  }

  /** Reports whether flows of this version are on their way. */
  get inTransit(): boolean {
    return this.#own !== null && this.#left >= 0 && lockedBytes(this.#own.fd, this.#left) !== null
  }

  /** Returns how many bytes others have locked in `[from, to)`. */
  #count(from: number, to: number): number {
    if (this.#own === null || from >= to) return 0
    const found = lockedBytes(this.#own.fd, from, to - from)
    if (found === null) return 0
    return 1 + this.#count(from, found.start) + this.#count(found.end, to)
  }

  /** Returns false if another version reads. */
  takeReading(): boolean {
    return this.#own !== null && lockBytes(this.#own.fd, 'exclusive', this.#base + RANGE)
  }

  /** Returns a descriptor for a flow that leaves. Throws EMFILE. */
  share(): OwnedFd {
    this.#transit ??= this.#lock()
    this.#left = this.#transit.at
    return this.#transit.fd.dup()
  }

  /** No further flow leaves. */
  endSharing(): void {
    this.#transit?.fd.close()
    this.#transit = null
  }

  release(): void {
    this.endSharing()
    this.#own?.fd.close()
    this.#own = null
  }
}
