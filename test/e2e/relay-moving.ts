import { type Relay, type RelayedConnection, RelayedConnections } from '../../src/relay/index.js'

/** The connections of one relay, as those of the listener `listener`. */
export function movable(relay: Relay, listener = 'test'): RelayedConnections {
  return new RelayedConnections({ listener, relays: () => [relay], relay: () => relay })
}

/** From another process, which has sent bytes. */
export function arriveMoved(to: RelayedConnections, { record, fds }: RelayedConnection): void {
  to.arrive(to.check(Buffer.from(record), fds), 'moved')
}

/** Moves all connections once; returns how many they were. */
export function move(from: RelayedConnections, to: RelayedConnections): number {
  let moves = 0
  for (const departure of from.departures('auto')) {
    arriveMoved(to, departure)
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
 * The same as between two processes: connections have no owner for some turns, in which bytes and ends come, and
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
      const slice: RelayedConnection[] = []
      while (slice.length < 1 + roll(8)) {
        const next = leaving.next()
        if (next.done) break
        slice.push(next.value)
      }
      more = slice.length > 0
      for (let turns = roll(4); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
      for (const departure of slice) {
        if (roll(4) === 0) from.arrive(departure, 'returned')
        else {
          arriveMoved(to, departure)
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
