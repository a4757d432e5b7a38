import type { Code } from '../../globals.js'
import { NODE } from '../../kernel/children.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { CONTROL, loggerOf } from '../program.js'

export const MAIN_SCRIPT = '/main.js'
export const WORKER_SCRIPT = '/worker.js'
/** A service manager starts the main process again this long after its end. */
const RESTART_MS = 300
/** Shorter than the longest stops. */
const WORKER_READY_MS = 5_000
const STOP_MS = 5_000

export interface MainsOptions {
  /** The configured number of workers. */
  readonly workers: number
  readonly replace: 'one-by-one' | 'at-once'
}

/** The main processes of workers, as `fd-broker workers start` runs them, under a service manager that starts one again when none of them lives. */
export class Mains {
  readonly #code: Code
  readonly #world: World
  readonly #options: MainsOptions
  readonly #all: SimulatedProcess[] = []
  /** The one that has begun to serve last. */
  #last: SimulatedProcess | null = null
  /** Whether the service manager starts the service again: not after an order to end it. */
  keepsAlive = true
  /** A later main process begins to serve: the one before has handed over, and has not heard of that. */
  onCommit: () => void = () => {}

  constructor(code: Code, world: World, options: MainsOptions) {
    this.#code = code
    this.#world = world
    this.#options = options
    this.start()
    world.watchDeaths(p => {
      if (!this.#all.includes(p)) return
      // The service has ended if the process that served last has ended without an error. One that it has replaced ends so too, perhaps much later.
      const served = this.#last ?? p
      if (this.living.length === 0 && served.exit.code === 0) this.keepsAlive = false
      world.after(RESTART_MS, () => {
        if (this.keepsAlive && this.living.length === 0) this.start()
      })
    })
  }

  get all(): readonly SimulatedProcess[] {
    return this.#all
  }

  get living(): SimulatedProcess[] {
    return this.#all.filter(({ dead }) => !dead)
  }

  /** Starts one more, which takes over from the present one. */
  start(origin: Partial<Origin> = {}): SimulatedProcess {
    const world = this.#world
    const isLater = this.living.length > 0
    const main = async (p: SimulatedProcess) => {
      const onPhase = (phase: string) => {
        if (phase !== 'beginning') return
        this.#last = p
        if (isLater) this.onCommit()
      }
      const { workers, replace } = this.#options
      try {
        await this.#code.runWorkers(
          {
            service: 'shop',
            workers,
            replace,
            command: [NODE, WORKER_SCRIPT],
            control: CONTROL,
            timeout: WORKER_READY_MS,
            stopTimeout: STOP_MS,
          },
          { logger: loggerOf(p, onPhase), reopen() {}, count: async () => workers },
        )
        world.exitWhenIdle(p, 'ends')
      } catch (error) {
        world.exitByError(p, error)
      }
    }
    const p = world.start(`M${this.#all.length + 1}`, main, { script: MAIN_SCRIPT, ...origin })
    this.#all.push(p)
    return p
  }
}
