import { type OwnedFd, PolledSocket, READABLE, sendOn } from '../kernel/index.js'

const NOTHING = Buffer.alloc(0)

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

  /** What the kernel does not take is lost: it takes a few lines. */
  say(line: Buffer): void {
    if (this.open) sendOn(this.descriptor, line, 0, line.length, NOTHING, 0, 0)
  }

  override ready(_events: number, chunk: Buffer, read: number): void {
    const bytes = read === -1 ? this.receive(chunk) : read
    if (bytes > 0) this.#hears(this, chunk, bytes)
    else if (bytes !== -1) this.leave()
  }

  leave(): void {
    this.close()
  }
}
