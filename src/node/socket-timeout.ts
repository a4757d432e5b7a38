import net from 'node:net'
import { internal } from './internal.js'

/** Same on Node 20 to 26: the timer of `socket.setTimeout()`, which each read and write starts again, on the clock of the event loop. */
interface Timer {
  readonly _idleStart: number
  readonly _idleTimeout: number
}

const TIMER = 'timeout'
let timerOfSocket: symbol | undefined

function timerOf(socket: net.Socket): Timer | null {
  timerOfSocket ??= Object.getOwnPropertySymbols(socket).find(({ description }) => description === TIMER)
  return timerOfSocket === undefined
    ? null
    : ((socket as unknown as Record<symbol, Timer | null>)[timerOfSocket] ?? null)
}

/** Now, on the clock of the event loop. */
function loopTime(): number {
  const timer = setTimeout(() => {}, 1)
  clearTimeout(timer)
  return (timer as unknown as Timer)._idleStart
}

export const SOCKET_TIMEOUT = internal(
  'socket[Symbol(timeout)]._idleStart',
  'the next process waits for the next request on a connection as long as if it had just been answered',
  () => {
    const socket = new net.Socket()
    socket.setTimeout(1_000)
    const { _idleStart = Number.NaN, _idleTimeout = 0 } = timerOf(socket) ?? {}
    socket.destroy()
    return _idleTimeout === 1_000 && Math.abs(loopTime() - _idleStart) < 1_000
  },
)

/** Milliseconds until the socket's own timeout; Infinity: it has none. */
export function timeoutLeft(socket: net.Socket): number {
  const { timeout = 0 } = socket
  if (timeout === 0) return Number.POSITIVE_INFINITY
  const timer = SOCKET_TIMEOUT.works ? timerOf(socket) : null
  return timer === null ? timeout : timer._idleStart + timer._idleTimeout - loopTime()
}
