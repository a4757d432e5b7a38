import type { MovableConnections } from '../../connections/movable.js'
import { closeOnThrow, type OwnedFd } from '../../kernel/index.js'
import { outOfDescriptors } from '../../os/limits.js'
import { type DrainCounts, sumCounts } from './forced-closes.js'
import type { ConnectionKeeper } from './serve-options.js'
import { SpareFd } from './spare-fd.js'

/** Reads the datagrams of a UDP listener. Only {@link start} may throw. */
export interface DatagramReader extends ConnectionKeeper {
  /** Whether the reader has the socket, and has not closed it. */
  readonly active: boolean
  /** This process serves. Owns the descriptor. Called again if this process serves again. */
  start(fd: OwnedFd): void
  /** Another process serves, or none will. */
  stop(): void
  /** This process will not serve again. */
  finish(): void
  close(): void
}

/** The socket of an application that a {@link DatagramReader} reads. */
interface ApplicationSocket {
  /** The application has closed the socket, which then never reads again. */
  readonly isClosed: boolean
  /** This process leaves, and no other process reads: reads the datagrams that wait, until the socket is closed. */
  readLast(): void
}

/** Returns a duplicate of a listener's descriptor for its reader. Throws ERR_FDB_NO_DESCRIPTORS. */
export function dupFor(fd: OwnedFd, spare = new SpareFd()): OwnedFd {
  try {
    return spare.take(fd)
  } catch (cause) {
    throw outOfDescriptors(`${fd.label} cannot be given to its reader`, cause)
  }
}

/** The reader of a UDP listener, in the form of a server for streams. */
export class AttachedDatagrams {
  readonly server = null
  readonly secure = false
  readonly acceptedUntilDetached = false
  readonly #reader: DatagramReader
  readonly #socket: ApplicationSocket | null
  readonly #spare = new SpareFd()
  #attached = false

  constructor(reader: DatagramReader, socket: ApplicationSocket | null = null) {
    this.#reader = reader
    this.#socket = socket
  }

  async attach(fd: OwnedFd): Promise<void> {
    if (this.#socket?.isClosed) return
    const own = dupFor(fd, this.#spare)
    this.#reader.resume?.()
    closeOnThrow([own], () => this.#reader.start(own))
    this.#attached = true
  }

  /** See {@link AttachedServer.detach}. */
  detach(fd: OwnedFd | null): void {
    if (this.#attached) {
      this.#reader.stop()
      if (fd !== null) this.#spare.keep(fd)
    }
    this.#attached = false
  }

  closeSpare(): void {
    this.#spare.close()
  }

  get accepting(): boolean {
    return this.#attached && this.#reader.active
  }

  get isClosed(): boolean {
    return this.#socket?.isClosed || (this.#attached && !this.#reader.active)
  }

  get connections(): number {
    return this.#reader.connections
  }

  get scheme(): string | null {
    return this.#reader.scheme ?? null
  }

  get moving(): readonly MovableConnections[] {
    return [this.#reader.moving ?? []].flat()
  }

  kinds(): Readonly<Record<string, number>> {
    return this.#reader.kinds?.() ?? {}
  }

  check(): void {}

  take(connection: OwnedFd): void {
    connection.close()
  }

  announce(): void {
    this.#reader.announce()
  }

  announceFixed(): void {
    if (!this.moving.some(({ movable }) => movable > 0)) this.#reader.announce()
  }

  endIdle(): void {
    this.#reader.endIdle?.()
  }

  emptied(): Promise<void> {
    return this.#reader.emptied()
  }

  cut(): DrainCounts {
    return this.#reader.cut()
  }

  cutReturned(): DrainCounts {
    return sumCounts([])
  }

  remaining(): DrainCounts {
    return this.#reader.remaining?.() ?? sumCounts([])
  }

  readLast(): void {
    this.#socket?.readLast()
  }

  finish(): void {
    this.#reader.finish()
  }

  release(): void {
    this.closeSpare()
    this.#reader.close()
  }
}
