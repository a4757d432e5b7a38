import { type Hangup, hangups, type LentFd } from '../adapter.js'

const EVERY_MS = 100

export interface Unread {
  /** Null: there is none to look at. */
  readonly descriptor: LentFd | null
  hungUp(how: Exclude<Hangup, 'none'>): void
}

/** Notices clients that go away while nothing is read from them: the event loop watches only what is read. */
export class ClientWatch {
  readonly #unread = new Set<Unread>()
  #timer: NodeJS.Timeout | undefined

  add(connection: Unread): void {
    this.#unread.add(connection)
    this.#timer ??= setInterval(() => this.#look(), EVERY_MS).unref()
  }

  remove(connection: Unread): void {
    this.#unread.delete(connection)
  }

  #look(): void {
    const watched: Unread[] = []
    const descriptors: LentFd[] = []
    for (const connection of this.#unread) {
      const { descriptor } = connection
      if (descriptor === null) continue
      watched.push(connection)
      descriptors.push(descriptor)
    }
    for (const [i, state] of hangups(descriptors).entries()) {
      const connection = watched[i]!
      if (state !== 'none' && this.#unread.has(connection)) connection.hungUp(state)
    }
    if (this.#unread.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
