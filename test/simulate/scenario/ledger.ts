import type { SimulatedProcess } from '../process.js'

/** The durable changes that the versions of a service with a state file have acknowledged: none may be lost. */
export class Ledger {
  readonly keys: string[] = []
  /** Called after each acknowledgement, before the client hears of it. */
  onAdded: () => void = () => {}
  /** Called when a version has begun with the state file alone. */
  onStartedAgain: () => void = () => {}

  add(p: SimulatedProcess, key: string): void {
    if (p.dead) return
    this.keys.push(key)
    this.onAdded()
  }

  startAgain(): void {
    this.onStartedAgain()
  }
}
