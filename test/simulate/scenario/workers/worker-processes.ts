import type { Code } from '../../globals.js'
import type { Origin, SimulatedProcess } from '../../process.js'
import type { World } from '../../world.js'
import { OnceOnlyWork, startVersion, type Version } from '../program.js'

export const PROBATION_MS = 3_000
const SOON_MS = 2_000

/** A process of a worker. */
export interface Worker extends Version {
  readonly slot: number
}

/** All processes of all workers, which the main processes have started. */
export class WorkerProcesses {
  readonly #code: Code
  readonly #world: World
  readonly #all: Worker[] = []
  /** The once-only work of each worker. */
  readonly #work = new Map<number, OnceOnlyWork>()
  /** The program that is started now ends before it is ready, or soon after its start. */
  bad: 'crashes' | 'ends soon' | null = null
  /** Each has a second listener, which it can close. */
  readonly #second: boolean
  /** Called when a process of a worker has joined. */
  onJoined: (version: Version) => void = () => {}

  constructor(code: Code, world: World, second: boolean) {
    this.#code = code
    this.#world = world
    this.#second = second
  }

  get all(): readonly Worker[] {
    return this.#all
  }

  get living(): SimulatedProcess[] {
    return this.#all.map(({ p }) => p).filter(({ dead }) => !dead)
  }

  get work(): ReadonlyMap<number, OnceOnlyWork> {
    return this.#work
  }

  ofSlot(slot: number): Worker[] {
    return this.#all.filter(each => each.slot === slot)
  }

  start(origin: Origin): SimulatedProcess {
    const slot = Number(origin.env.FD_BROKER_WORKER)
    const name = `${slot}.${this.ofSlot(slot).length + 1}`
    const work = this.#work.get(slot) ?? new OnceOnlyWork()
    this.#work.set(slot, work)
    const options = {
      probation: PROBATION_MS,
      hosting: 'daemon',
      ledger: null,
      crashes: this.bad === 'crashes',
      second: this.#second,
      onJoined: (version: Version) => this.onJoined(version),
    } as const
    const version = startVersion(this.#code, name, this.#world, work, options, origin)
    this.#all.push(Object.assign(version, { slot }))
    const { p } = version
    if (this.bad === 'ends soon')
      this.#world.after(this.#world.below(SOON_MS), () =>
        this.#world.kill(p, 'ends soon after its start', { code: 1, signal: null }),
      )
    return p
  }
}
