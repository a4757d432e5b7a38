import { override, type Socket } from './internals.js'

/** How many events of a client the handlers of this process have yet to acknowledge, by socket. */
export class OwedAnswers {
  readonly #owed = new WeakMap<Socket, number>()

  follow(socket: Socket): void {
    override(socket, 'ack', ack => id => {
      const answer = ack(id)
      let isOwed = true
      this.#add(socket, 1)
      return (...args) => {
        if (isOwed) this.#add(socket, -1)
        isOwed = false
        answer(...args)
      }
    })
  }

  has(socket: Socket): boolean {
    return (this.#owed.get(socket) ?? 0) > 0
  }

  #add(socket: Socket, change: number): void {
    this.#owed.set(socket, (this.#owed.get(socket) ?? 0) + change)
  }
}
