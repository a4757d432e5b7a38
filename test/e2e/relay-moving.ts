import type { Departure } from '../../src/connections/movable.js'
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
export function startMoving(relay: Relay, listener = 'test'): { readonly moves: number; stop(): void } {
  const connections = movable(relay, listener)
  const state = {
    moves: 0,
    on: true,
    stop() {
      state.on = false
    },
  }
  const step = (): void => {
    if (!state.on) return
    state.moves += move(connections, connections)
    setImmediate(step)
  }
  setImmediate(step)
  return state
}
