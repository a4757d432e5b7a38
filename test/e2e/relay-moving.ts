import type { Departure } from '../../src/moving/movable.js'
import { type Relay, RelayedConnections } from '../../src/relay/index.js'

/** The connections of one relay, as those of the listener `listener`. */
export function movable(relay: Relay, listener = 'test'): RelayedConnections {
  return new RelayedConnections({ listener, relays: () => [relay], relayFor: () => relay })
}

/** As another process would get it: bytes of its own. */
export function sent({ record, fds }: Departure): Departure {
  return { record: Buffer.from(record), fds }
}

/** Moves all connections once; returns how many they were. */
export function move(from: RelayedConnections, to: RelayedConnections): number {
  let moves = 0
  for (const departure of from.departures('auto')) {
    const arrival = sent(departure)
    to.check(arrival.record, arrival.fds)
    to.arrive(arrival, 'moved')
    moves++
  }
  return moves
}

/** Moves all connections of the relay out and in again at every turn of the event loop. */
export function startMoving(relay: Relay, listener = 'test'): Moving {
  const connections = movable(relay, listener)
  return repeat(async count => count(move(connections, connections)))
}

/**
 * The same as between two processes: connections are in nobody's hands for some turns, in which bytes and ends come, and
 * a part of them comes back. Seeded.
 */
export function startTravelling(one: Relay, other: Relay, seed: number, listener = 'test'): Moving {
  let state = seed
  const roll = (most: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 16) % most
  }
  let [from, to] = [movable(one, listener), movable(other, listener)]
  return repeat(async count => {
    const leaving = from.departures('auto')
    for (let more = true; more; ) {
      const slice: Departure[] = []
      while (slice.length < 1 + roll(8)) {
        const next = leaving.next()
        if (next.done) break
        slice.push(sent(next.value))
      }
      more = slice.length > 0
      for (let turns = roll(4); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
      for (const departure of slice) {
        if (roll(4) === 0) from.arrive(departure, 'returned')
        else {
          to.check(departure.record, departure.fds)
          to.arrive(departure, 'moved')
          count(1)
        }
      }
    }
    if (roll(3) === 0) [from, to] = [to, from]
  })
}

export interface Moving {
  readonly moves: number
  /** Resolves when nothing is between two relays. */
  stop(): Promise<void>
}

function repeat(step: (count: (moves: number) => void) => Promise<void>): Moving {
  let moves = 0
  let on = true
  const run = async (): Promise<void> => {
    while (on) {
      await new Promise(resolve => setImmediate(resolve))
      if (on) await step(count => (moves += count))
    }
  }
  const running = run()
  return {
    get moves() {
      return moves
    },
    stop() {
      on = false
      return running
    },
  }
}
