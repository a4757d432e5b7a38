import net from 'node:net'
import { internal } from './internal.js'

/** The timer of `socket.setTimeout()` on Node 20 to 26. Each read and write restarts it. Times are on the clock of the event loop. */
interface SocketTimer {
  readonly _idleStart: number
  readonly _idleTimeout: number
}

const TIMER = 'timeout'
let timerOfSocket: symbol | undefined

function timerOf(socket: net.Socket): SocketTimer | null {
  timerOfSocket ??= Object.getOwnPropertySymbols(socket).find(({ description }) => description === TIMER)
  return timerOfSocket === undefined
    ? null
    : ((socket as unknown as Record<symbol, SocketTimer | null>)[timerOfSocket] ?? null)
}

function loopTime(): number {
  const timer = setTimeout(() => {}, 1)
  clearTimeout(timer)
  return (timer as unknown as SocketTimer)._idleStart
}

export const SOCKET_TIMEOUT = internal(
  'socket[Symbol(timeout)]._idleStart',
  'after a move, the idle timeout of a connection starts again in the next process',
  () => {
    const socket = new net.Socket()
    socket.setTimeout(1_000)
    const { _idleStart = Number.NaN, _idleTimeout = 0 } = timerOf(socket) ?? {}
    socket.destroy()
    return _idleTimeout === 1_000 && Math.abs(loopTime() - _idleStart) < 1_000
  },
)

/** Returns the milliseconds until the socket's own timeout, or Infinity without one. */
export function timeoutLeft(socket: net.Socket): number {
  const { timeout = 0 } = socket
  if (timeout === 0) return Number.POSITIVE_INFINITY
  const timer = SOCKET_TIMEOUT.works ? timerOf(socket) : null
  return timer === null ? timeout : timer._idleStart + timer._idleTimeout - loopTime()
}
