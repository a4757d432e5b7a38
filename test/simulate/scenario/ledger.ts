import type { SimulatedProcess } from '../process.js'

/** The durable changes that the versions of a service with a state file have acknowledged: none may be lost. */
export class Ledger {
  readonly keys: string[] = []
  /** When each of them was acknowledged. */
  readonly #times: number[] = []
  /** Called after each acknowledgement, before the client hears of it. */
  onAdded: () => void = () => {}
  /** Called when a version has begun with the state file alone. */
  onStartedAgain: () => void = () => {}

  add(p: SimulatedProcess, key: string): void {
    if (p.dead) return
    this.keys.push(key)
    this.#times.push(p.world.now)
    this.onAdded()
  }

  /** Forgets the changes that were acknowledged from this time on. */
  forgetSince(time: number): void {
    const kept = this.#times.findIndex(at => at >= time)
    if (kept === -1) return
    this.keys.length = kept
    this.#times.length = kept
  }

  startAgain(): void {
    this.onStartedAgain()
  }
}
