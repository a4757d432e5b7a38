import { type OwnedFd, PolledSocket, READABLE, sendOn } from '../kernel/index.js'

/** What came is good until it returns. */
export type Hears = (standIn: StandIn, heard: Buffer, bytes: number) => void

/** In place of a client, or of a server: the other end of a connection of this process to itself. */
export class StandIn extends PolledSocket {
  readonly #hears: Hears

  /** Takes `fd`. */
  constructor(fd: OwnedFd, hears: Hears) {
    super(fd)
    this.#hears = hears
    this.setEager(true)
    this.watch(READABLE)
  }

  /** What the kernel does not take is lost: it takes a few lines. Leaves where the other end has gone. */
  say(line: Buffer): void {
    if (!this.open) return
    try {
      sendOn(this.descriptor, line, 0, line.length)
    } catch {
      this.leave()
    }
  }

  override ready(_events: number, chunk: Buffer, read: number): void {
    const bytes = read === -1 ? this.#read(chunk) : read
    if (bytes > 0) this.#hears(this, chunk, bytes)
    else if (bytes !== -1) this.leave()
  }

  #read(into: Buffer): number {
    try {
      return this.receive(into)
    } catch {
      return 0
    }
  }

  leave(): void {
    this.close()
  }
}
