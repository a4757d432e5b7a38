import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'

/** A process hears within this time that another one has ended, or that there is no room any more. */
const HEARD_MS = 500

/** A process that serves, or has served until `to`. */
export interface Served {
  readonly p: SimulatedProcess
  readonly to: number
}

/** Judges the starts of processes while their control group has no memory for one more: the kernel would kill the largest one, which serves. If none serves, one must start. */
export class FullGroup {
  readonly wrong: string[] = []
  readonly #world: World
  readonly #served: () => Iterable<Served>

  constructor(world: World, served: () => Iterable<Served>) {
    this.#world = world
    this.#served = served
    world.kernel.memory.onRefusal = p => this.#refused(p)
  }

  /** A process has started another one. `others`: those that the kernel would kill; default: all. */
  started({ name, parent }: SimulatedProcess, others: Iterable<Served> = this.#served()): void {
    const { now, kernel } = this.#world
    if (parent === null || kernel.memory.fullSince > now - HEARD_MS) return
    const beside = [...others].find(({ p, to }) => !p.dead && p.stoppedUntil === 0 && to > now)
    if (beside !== undefined)
      this.#add(`${parent.name} starts ${name}, and the kernel kills ${beside.p.name}, which serves`)
  }

  #refused(by: SimulatedProcess): void {
    const lately = this.#world.now - HEARD_MS
    // A process that was stopped hears later.
    if (by.stoppedUntil > lately) return
    if (![...this.#served()].some(({ p, to }) => Math.min(p.diedAt, to) > lately))
      this.#add(`${by.name} refuses to start a process, and none serves`)
  }

  #add(what: string): void {
    this.wrong.push(`the memory is full, ${what}, at ${this.#world.now.toFixed(3)}`)
  }
}
