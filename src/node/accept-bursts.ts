import type net from 'node:net'

/** The most connections that are accepted behind the one of a turn, and the time for that in milliseconds. */
const MOST = 16
const MOST_MS = 2
/** Where connections come faster than that, turns are short. To accept one here costs some 10 µs more than in libuv. */
const SHORT_TURN_MS = 1
/** Where no further one waited, as many turns do without: 1, 2, 4, at most so many. */
const MOST_PAUSE = 8

/** On Node 20 to 26 the handle of a listening server calls this function for each connection, with the handle as `this`. */
interface ListeningServer {
  readonly _handle: { onconnection?: (status: number, client: unknown) => void } | null
}

/**
 * Accepts in a turn of the event loop more than the one connection that libuv accepts since 1.46: behind busy connections, whose turns are long,
 * clients would wait in the kernel's queue for so many turns. `accept`: accepts one more, and returns false if none waits. Ends when the server stops
 * listening. Does nothing on a Node with other internals, or where the program limits the connections (`server.maxConnections`).
 */
export function acceptInBursts(server: net.Server, accept: () => boolean): void {
  const inside = server as unknown as ListeningServer
  const handle = inside._handle
  const original = handle?.onconnection
  if (handle === null || typeof original !== 'function') return
  let isDue = false
  /** How many turns the last pause had, and how many are left of it. */
  let [pause, left] = [0, 0]
  let lastAt = 0
  const burst = () => {
    isDue = false
    const end = performance.now() + MOST_MS
    let accepted = 0
    while (accepted < MOST && performance.now() < end && inside._handle === handle && accept()) accepted++
    pause = accepted > 0 ? 0 : Math.min(MOST_PAUSE, Math.max(1, pause * 2))
    left = pause
  }
  handle.onconnection = function (status, client) {
    Reflect.apply(original, this, [status, client])
    const now = performance.now()
    const isLong = now - lastAt >= SHORT_TURN_MS
    lastAt = now
    if (!isLong || isDue || status !== 0 || server.maxConnections !== undefined || left-- > 0) return
    isDue = true
    setImmediate(burst)
  }
}
