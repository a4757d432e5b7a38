import { type Hangup, hangups, type LentFd } from '../adapter.js'

const EVERY_MS = 100

export interface Watched {
  /** Null: the connection has closed. */
  readonly descriptor: LentFd | null
  onHangup(how: Exclude<Hangup, 'none'>): void
}

/** Detects clients that hang up while nothing is read from them: the event loop watches only what is read. */
export class ClientWatch {
  readonly #watched = new Set<Watched>()
  #timer: NodeJS.Timeout | undefined

  add(connection: Watched): void {
    this.#watched.add(connection)
    this.#timer ??= setInterval(() => this.#checkHangups(), EVERY_MS).unref()
  }

  remove(connection: Watched): void {
    this.#watched.delete(connection)
  }

  #checkHangups(): void {
    const watched: Watched[] = []
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
