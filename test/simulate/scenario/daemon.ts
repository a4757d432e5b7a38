import type { Code } from '../globals.js'
import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { CONTROL, loggerOf } from './program.js'

/** A service manager starts the daemon again this long after its end. */
const RESTART_MS = 100

/** Starts a daemon, and again after each end. Returns a function that returns the present process. */
export function startDaemon(code: Code, world: World): () => SimulatedProcess {
  const start = () =>
    world.start('S', async p => {
      try {
        await code.serveDaemon({ control: CONTROL, logger: loggerOf(p) })
      } catch (error) {
        p.fail(error)
        world.kill(p, 'ends with an error')
      }
    })
  let daemon = start()
  world.watchDeaths(p => {
    if (p === daemon) world.after(RESTART_MS, () => (daemon = start()))
  })
  return () => daemon
}
