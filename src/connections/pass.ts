import type { Departure, MovableConnections } from './movable.js'
import type { Item, Source } from './move-slice.js'

type Departures = Iterator<Departure | null, void, undefined>

interface Turn {
  readonly source: Source
  departures: Departures | null
  /** The source was asked for the first time in this pass. */
  readonly isFirst: boolean
}

interface PassOptions {
  /** Whether another connection of a server may leave. */
  readonly mayLeave: (moving: MovableConnections) => boolean
  readonly begin: (moving: MovableConnections) => Departures
  /** A server has thrown. The next pass asks it again. */
  readonly failed: (error: unknown) => void
}

/**
 * One pass over the connections of all sources. The sources take turns: while connections of one must wait, for example until their messages are
 * compressed, those of others leave.
 */
export class Pass {
  readonly #options: PassOptions
  readonly #turns: Turn[] = []
  #at = 0

  constructor(sources: readonly Source[], options: PassOptions) {
    this.#options = options
    // A server of two listeners is asked once: of two iterators each would give the connections that were open when it began.
    for (const source of sources)
      if (!this.#isOpen(source)) this.#turns.push({ source, departures: null, isFirst: true })
  }

  /** Returns the next connection that leaves, null after one that stays, or undefined at the end of the pass. */
  next(): Item | null | undefined {
    for (;;) {
      this.#at = this.#at < this.#turns.length ? this.#at : 0
      const turn = this.#turns[this.#at]
      if (turn === undefined) return undefined
      const departure = this.#nextOf(turn)
      if (departure === undefined) this.#turns.splice(this.#turns.indexOf(turn), 1)
      else {
        this.#at++
        return departure && { source: turn.source, departure }
      }
    }
  }

  #nextOf(turn: Turn): Departure | null | undefined {
    const { mayLeave, begin, failed } = this.#options
    const { moving } = turn.source
    if (!mayLeave(moving)) return undefined
    try {
      turn.departures ??= begin(moving)
      const next = turn.departures.next()
      return next.done ? undefined : next.value
    } catch (error) {
      failed(error)
      return undefined
    }
  }

  /** Asks a source again whose connections may be able to leave now, if others have not had their first turns yet. So the pass ends. */
  again(source: Source): void {
    if (!this.#isOpen(source) && this.#turns.some(({ isFirst }) => isFirst))
      this.#turns.push({ source, departures: null, isFirst: false })
  }

  #isOpen(source: Source): boolean {
    return this.#turns.some(({ source: { moving } }) => moving === source.moving)
  }
}
