import type { Daemon } from '../../../src/daemon/daemon.js'
import type { Code } from '../globals.js'
import type { Origin, SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { exitWithNothing } from './census.js'
import { CONTROL, loggerOf } from './program.js'

export const DAEMON_SCRIPT = '/daemon.js'
/** A service manager starts the daemon again this long after its end. */
const RESTART_MS = 100
/** Members are back after so long. */
export const RETURN_MS = 500
/** The next daemon serves, or gives up, within this time: it waits for running upgrades, loads, and is given up if it is silent. */
const DECIDED_MS = 30_000

/** The processes of a daemon, under a service manager that starts it again when none of them lives. */
export class Daemons {
  readonly #code: Code
  readonly #world: World
  readonly all: SimulatedProcess[] = []
  /** Why next daemons have not taken over. */
  readonly refusals: Error[] = []
  /** The next daemons of which it is not decided yet whether they serve, and when they started. */
  readonly #undecided = new Map<SimulatedProcess, number>()
  readonly #daemons = new Map<SimulatedProcess, Daemon>()

  constructor(code: Code, world: World) {
    this.#code = code
    this.#world = world
    this.#start('S', false)
    world.watchDeaths(p => {
      if (this.all.includes(p)) world.after(RESTART_MS, () => this.#startAgain())
    })
  }

  /** Whether no daemon lived a moment ago: members reconnect at the latest so long after the next start. */
  get mayLag(): boolean {
    const { now } = this.#world
    const ended = this.all.map(({ diedAt }) => diedAt).filter(at => at <= now)
    return this.living.length === 0 || ended.some(at => now < at + RESTART_MS + RETURN_MS)
  }

  get living(): SimulatedProcess[] {
    return this.all.filter(({ dead }) => !dead)
  }

  serves(p: SimulatedProcess): boolean {
    return this.#daemons.has(p)
  }

  /** The daemon that was started last with this name. */
  named(name: string): SimulatedProcess | undefined {
    return this.all.findLast(p => p.name === name)
  }

  /** Starts the next daemon, which takes over from the present one. */
  upgrade(name: string, origin: Partial<Origin> = {}): SimulatedProcess {
    const p = this.#start(name, true, origin)
    this.#undecided.set(p, this.#world.now)
    return p
  }

  /** Closes the daemon in this process, as TERM does. */
  close(name: string): void {
    const p = this.named(name)
    const daemon = p && this.#daemons.get(p)
    if (daemon === undefined || p!.dead) return
    this.#world.note(p!, 'calls close()')
    p!.enter()
    p!.run(() => {
      daemon.close().catch(error => p!.fail(error))
    })
  }

  /** The promises that the daemon has broken. Asked after all trouble, when the last next daemon has had time to serve. */
  get wrong(): string[] {
    const wrong: string[] = []
    for (const [p, since] of this.#undecided)
      if (!p.dead && Math.max(since, p.stoppedUntil) + DECIDED_MS < this.#world.now)
        wrong.push(`the next daemon ${p.name} neither serves nor has it given up`)
    const names = this.living.map(({ name }) => name)
    const last = this.all.at(-1)!
    if (names.length !== 1 || this.living[0] !== last || !this.#daemons.has(last))
      wrong.push(`the last daemon ${last.name} has not taken over: ${names} live`)
    return wrong
  }

  #startAgain(): void {
    if (this.living.length === 0) this.#start('S', false)
  }

  #start(name: string, takeOver: boolean, origin: Partial<Origin> = {}): SimulatedProcess {
    const world = this.#world
    const main = async (p: SimulatedProcess) => {
      try {
        const daemon = await this.#code.serveDaemon({ control: CONTROL, logger: loggerOf(p), takeOver })
        this.#undecided.delete(p)
        this.#daemons.set(p, daemon)
        if (takeOver) world.note(p, 'serves as the next daemon')
        // Nothing keeps a process alive whose daemon is closed.
        await daemon.closed
        p.setImmediate(() => exitWithNothing(p, () => world.exit(p, 'ends')))
      } catch (error) {
        if (takeOver) {
          // The previous daemon goes on.
          world.note(p, `does not take over: ${error}`)
          this.refusals.push(error as Error)
          const { code = '' } = error as NodeJS.ErrnoException
          if (!/^ERR_FDB_/.test(code)) p.fail(error)
        } else p.fail(error)
        world.kill(p, 'ends with an error', { code: 1, signal: null })
      }
    }
    const p = world.start(name, main, { script: DAEMON_SCRIPT, ...origin })
    this.all.push(p)
    return p
  }
}
