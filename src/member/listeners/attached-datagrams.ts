import type { MovableConnections } from '../../connections/movable.js'
import { closeOnThrow, type OwnedFd } from '../../kernel/index.js'
import { outOfDescriptors } from '../../os/limits.js'
import { type DrainCounts, sumCounts } from './forced-closes.js'
import type { ConnectionKeeper } from './serve-options.js'

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

/** The reader of a UDP listener, in the form of a server for streams. */
export class AttachedDatagrams {
  readonly server = null
  readonly secure = false
  readonly acceptedUntilDetached = false
  readonly #reader: DatagramReader
  #attached = false

  constructor(reader: DatagramReader) {
    this.#reader = reader
  }

  async attach(fd: OwnedFd): Promise<void> {
    let own: OwnedFd
    try {
      own = fd.dup()
    } catch (cause) {
      throw outOfDescriptors(`${fd.label} cannot be given to its reader`, cause)
    }
    this.#reader.resume?.()
    closeOnThrow([own], () => this.#reader.start(own))
    this.#attached = true
  }

  detach(): void {
    if (this.#attached) this.#reader.stop()
    this.#attached = false
  }

  get accepting(): boolean {
    return this.#attached && this.#reader.active
  }

  get isClosed(): boolean {
    return this.#attached && !this.#reader.active
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

  finish(): void {
    this.#reader.finish()
  }

  release(): void {
    this.#reader.close()
  }
}
