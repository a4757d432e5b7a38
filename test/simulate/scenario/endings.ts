import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import type { Version } from './program.js'

const ENDS: ReadonlySet<NodeJS.Signals> = new Set(['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGKILL'])

interface EndingsDeps {
  /** The versions of the service, or the processes of its workers. */
  versions(): Iterable<Version>
  /** Whether the service was ordered to end: then its processes may end each other. */
  mayEnd(): boolean
}

/** The signals by which processes of a service end each other: a process that serves, or has clients, is ended only if it hangs. */
export class Endings {
  readonly wrong: string[] = []
  readonly #world: World
  readonly #deps: EndingsDeps

  constructor(world: World, deps: EndingsDeps) {
    this.#world = world
    this.#deps = deps
    world.onSignal = (from, to, signal) => {
      if (from !== to && ENDS.has(signal)) this.#judge(from, to, signal)
    }
  }

  #judge(from: SimulatedProcess, to: SimulatedProcess, signal: NodeJS.Signals): void {
    this.#world.note(from, `sends ${signal} to ${to.name}`)
    const version = [...this.#deps.versions()].find(({ p }) => p === to)
    if (version === undefined || to.dead || this.#deps.mayEnd()) return
    // A process that was stopped may have been given up meanwhile.
    if (to.stoppedUntil > 0) return
    const clients = version.connections()
    const serves = version.served.at(-1)?.to === Number.POSITIVE_INFINITY
    const why = serves ? 'serves' : clients > 0 ? `has ${clients} connections of clients` : null
    if (why === null) return
    this.wrong.push(
      `${from.name} sends ${signal} to ${to.name}, which ${why}, at ${this.#world.now.toFixed(3)}`,
    )
  }
}
