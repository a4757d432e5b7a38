/** A module-level variable of `src` that belongs to one process. */
interface Slot {
  /** Sets the variable to its first value. */
  readonly init: () => void
  readonly get: () => unknown
  readonly set: (value: unknown) => void
}

const slots: Slot[] = []
/** The values of the process that runs now are in the variables; those of the others are here. */
let running: Slots | null = null

/** Called by the bundle for each variable that the list in own-state.ts names. */
export function addSlot(init: Slot['init'], get: Slot['get'], set: Slot['set']): void {
  slots.push({ init, get, set })
}

export function countSlots(): number {
  return slots.length
}

/** The values of one process. All processes share one evaluation of `src`, which V8 has optimised. */
export class Slots {
  #values: unknown[] | null = null

  /** Puts these values in place of those of the process that ran before. */
  exchange(): void {
    if (running === this) return
    if (running !== null) running.#values = slots.map(({ get }) => get())
    running = this
    if (this.#values === null) for (const { init } of slots) init()
    else for (const [i, { set }] of slots.entries()) set(this.#values[i])
  }
}
