import { connectTcpNow } from '../kernel/addon.js'
import type { Kernel } from '../kernel/kernel.js'
import { DEAD } from '../process.js'
import type { World } from '../world.js'
import { HOST } from './program.js'

/** Clients that connect while a listener closes. */
const CALLERS = 20
/** The time from the order to end to the end of the last listener, or about. */
const ENDS_MS = 3
const WAITS_MS = 1_000

/** Clients connect within so many milliseconds, the first one at once, if a process listens then, wait for a while, and leave. */
export function callLate(world: World, port: number, ms = ENDS_MS, waitsMs = WAITS_MS): void {
  for (let i = 0; i < CALLERS; i++)
    world.after(i === 0 ? 0 : world.random() * ms, () =>
      world.start(`late${i}`, async p => {
        try {
          connectTcpNow(HOST, port)
        } catch (error) {
          if (error === DEAD) throw error
        }
        await new Promise<void>(resolve => p.setTimer(resolve, waitsMs))
        world.kill(p, 'ends', { code: 0, signal: null })
      }),
    )
}

/** Returns the connections that waited when the last process that could accept them closed its listener. */
export function wrongOfQueues(resets: Kernel['resets']): string[] {
  return resets.map(
    ({ at, count }) =>
      `${count} connections that waited were reset, as their listener was closed at ${at.toFixed(3)}`,
  )
}
