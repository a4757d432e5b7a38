import { type Hangup, hangups, type LentFd } from '../adapter.js'

const POLL_MS = 100

export interface WatchedClient {
  /** Null if the connection has closed. */
  readonly descriptor: LentFd | null
  onHangup(how: Exclude<Hangup, 'none'>): void
}

/** Polls for hangups of clients from which the relay does not read: the event loop reports a hangup only to a reader. */
export class ClientWatch {
  readonly #watched = new Set<WatchedClient>()
  #timer: NodeJS.Timeout | undefined

  add(connection: WatchedClient): void {
    this.#watched.add(connection)
    this.#timer ??= setInterval(() => this.#checkHangups(), POLL_MS).unref()
  }

  remove(connection: WatchedClient): void {
    this.#watched.delete(connection)
  }

  #checkHangups(): void {
    const watched: WatchedClient[] = []
    const descriptors: LentFd[] = []
    for (const connection of this.#watched) {
      const { descriptor } = connection
      if (descriptor === null) continue
      watched.push(connection)
      descriptors.push(descriptor)
    }
    for (const [i, state] of hangups(descriptors).entries()) {
      const connection = watched[i]!
      if (state !== 'none' && this.#watched.has(connection)) connection.onHangup(state)
    }
    if (this.#watched.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
